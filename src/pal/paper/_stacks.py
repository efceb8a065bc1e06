"""Stacks: answers of several data sets of one shape, and models on them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Answers", "Models", "Recipe"]


@dataclass(frozen=True)
class Answers:
    """Answers of S stacked data sets, each with n of every one of N users.

    Attributes:
        difference: (S, n, N, D) left - right.
        total: (S, n, N, D) left + right.
        label: (S, n, N).
    """

    difference: Tensor
    total: Tensor
    label: Tensor

    def take(self, rows: Tensor) -> "Answers":
        """The answers at some positions (b,) of every user."""
        return Answers(self.difference[:, rows], self.total[:, rows], self.label[:, rows])


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults do what `pal.fit` does, with learning rates that suit answers without noise.

    Attributes:
        init: "grow" (from the pooled model) or "random" (as the paper).
        lr: of the maps.
        prototype_lr: of the prototypes.
        user_lr: of the user weights.
        weight_decay: of the maps.
        strength: of the prior on user weights, in answers.
        batch_size: answers a step, about.
        steps: of a model of several prototypes; a pooled one takes a third.
        ideal_point: "latent" (prototypes in R^d) or "map_of_mixture" (in R^D, equation 2).
        drops: shares of the steps after which the learning rates fall to a fifth.
        eval_every: steps between checkpoints.
    """

    init: str = "grow"
    lr: float = 3e-2
    prototype_lr: float = 6e-2
    user_lr: float = 1e-1
    weight_decay: float = 0.0
    strength: float = 5.0
    batch_size: int = 512
    steps: int = 2000
    ideal_point: str = "latent"
    drops: tuple[float, ...] = (0.6, 0.8)
    eval_every: int = 50


@dataclass(frozen=True)
class Models:
    """M models on each of S data sets; where K differs, the rows beyond a model's own K have weight 0.

    Attributes:
        maps: (S, M, d, D) f.
        points: (S, M, K, d or D) prototypes, where `ideal_point` puts them.
        logits: (S, M, N, K) of the user weights, -inf beyond a model's own K.
        n_prototypes: of each of the M.
        ideal_point: "latent" or "map_of_mixture".
    """

    maps: Tensor
    points: Tensor
    logits: Tensor
    n_prototypes: tuple[int, ...]
    ideal_point: str = "latent"

    @property
    def latent_points(self) -> Tensor:
        """(S, M, K, d) prototypes in the latent space."""
        return self.points if self.ideal_point == "latent" else self.points @ self.maps.transpose(2, 3)

    @property
    def weights(self) -> Tensor:
        """(S, M, N, K) user weights."""
        # over a dimension that is not the last: eight times as fast where that one is short
        return torch.softmax(self.logits.transpose(2, 3).contiguous(), dim=2).transpose(2, 3).contiguous()

    def latent(self, x: Tensor) -> Tensor:
        """f(x) of items (S, n, N, D), (S, n, N, M, d)."""
        S, M, d, D = self.maps.shape
        y = torch.bmm(x.reshape(S, -1, D), self.maps.reshape(S, M * d, D).transpose(1, 2))
        return y.view(*x.shape[:3], M, d)

    def margins(self, answers: Answers, weights: Tensor | None = None) -> Tensor:
        """(S, n, N, M) margins, with user weights (S, M, N, K) or the models' own."""
        ideal = (self.weights if weights is None else weights) @ self.latent_points
        z, t = self.latent(answers.difference), self.latent(answers.total)
        return (z * (2 * ideal.transpose(1, 2)[:, None] - t)).sum(4)

    def prototype_margins(self, answers: Answers) -> Tensor:
        """(S, n, N, K) what each prototype says, where M is 1."""
        z, t = self.latent(answers.difference).squeeze(3), self.latent(answers.total).squeeze(3)
        S, n, N, d = z.shape
        dot = torch.bmm(z.view(S, -1, d), self.latent_points[:, 0].transpose(1, 2)).view(S, n, N, -1)
        return 2 * dot - (z * t).sum(3, keepdim=True)

    def model(self, m: int) -> "Models":
        """The m-th model alone, without rows beyond its K."""
        k, some = self.n_prototypes[m], slice(m, m + 1)
        return replace(
            self,
            maps=self.maps[:, some],
            points=self.points[:, some, :k],
            logits=self.logits[:, some, :, :k],
            n_prototypes=(k,),
        )
