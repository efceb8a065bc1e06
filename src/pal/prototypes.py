"""Prototypes: the K points of view that a population shares, and the margins they give to questions.

In the linear variants the terms that depend on the user alone cancel in the margin (docs/model.md), so each question
becomes K numbers once, the differences of the *prototype rewards*, and every user's margin is a dot product of length
K. The two others (`ideal_point="map_of_mixture"` with an MLP, `renormalize=True`) keep what they need per question and
finish the margin per answer.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pal._eigen import eigh
from pal.maps import LinearMap, MLPMap
from pal.questions import Questions

__all__ = ["FixedPrototypes", "LinearPrototypes", "PromptPrototypes", "Prototypes", "Terms", "differences"]

_FIRST_CURVATURE = 0.6  # of rewards: less than a random map would bend them
_SLIGHT_CURVATURE = 0.3  # at the start of those that begin as the best linear ones
_LEAST_CURVATURE = 0.03  # while training: ideal points stay within sight
_LONGEST = 0.9 / _LEAST_CURVATURE  # points that training shortens to 1: their curvature is still above the least


@dataclass(frozen=True)
class Terms:
    """What the margin of a user's answer needs of Q questions.

    Attributes:
        margins: (Q, K) differences of prototype rewards, left minus right, in the linear variants.
        difference: (Q, d) f(left) - f(right), in the others.
        offset: (Q,) |f(left)|^2 - |f(right)|^2, for model A.
        directions: (Q, K, d) unit vectors g_k(x_c), for model B.
    """

    margins: Tensor | None = None
    difference: Tensor | None = None
    offset: Tensor | None = None
    directions: Tensor | None = None

    def full(self) -> "Terms":
        """The same in float32, after autocast."""
        return Terms(**{name: None if x is None else x.float() for name, x in vars(self).items()})

    def times(self, factor: float) -> "Terms":
        """The same of prototypes that were rescaled, in the linear variants."""
        return replace(self, margins=None if self.margins is None else factor * self.margins)


def _columns(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table (N, K), as columns (K, B): sums over so few K, and scattering back, are several times as fast."""
    if len(table) > len(rows):  # a few rows of many users: the table is not copied for them
        return table.index_select(0, rows).T.contiguous()
    return table.T.contiguous().index_select(1, rows)


def _added(rows: Tensor, columns: Tensor, n: int) -> Tensor:
    """A table (n, K) to whose rows (B,) columns (K, B) are added."""
    return columns.new_zeros(len(columns), n).scatter_add_(1, rows.expand_as(columns), columns).T


class _DotProduct(torch.autograd.Function):
    """The rows' w . m (B,), without keeping the gathered rows: they are gathered again in the backward pass."""

    @staticmethod
    def forward(ctx, margins: Tensor, weights: Tensor, question: Tensor, user: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(margins, weights, question, user)
        return _columns(margins, question).mul_(_columns(weights, user)).sum(0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
        margins, weights, question, user = ctx.saved_tensors
        to_margins = to_weights = None
        if ctx.needs_input_grad[0]:
            to_margins = _added(question, _columns(weights, user).mul_(grad), len(margins))
        if ctx.needs_input_grad[1]:
            to_weights = _added(user, _columns(margins, question).mul_(grad), len(weights))
        return to_margins, to_weights, None, None


class _Moments(torch.autograd.Function):
    """w . m and its spread over prototypes, sum_k w_k (m_k - w . m)^2, in one visit to the rows; as _DotProduct."""

    @staticmethod
    def forward(ctx, margins: Tensor, weights: Tensor, question: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        m, w = _columns(margins, question), _columns(weights, user)
        mean = (m * w).sum(0)
        ctx.save_for_backward(margins, weights, question, user, mean)
        return mean, m.sub_(mean).square_().mul_(w).sum(0)

    @staticmethod
    def backward(ctx, to_mean: Tensor, to_spread: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
        margins, weights, question, user, mean = ctx.saved_tensors
        m, w = _columns(margins, question), _columns(weights, user)
        to_margins = to_weights = None
        if ctx.needs_input_grad[0]:
            grad = (m - mean).mul_(2 * to_spread).add_(to_mean).mul_(w)
            to_margins = _added(question, grad, len(margins))
        if ctx.needs_input_grad[1]:
            grad = (m - 2 * mean).mul_(to_spread).add_(to_mean).mul_(m)
            to_weights = _added(user, grad, len(weights))
        return to_margins, to_weights, None, None


class Prototypes(nn.Module, ABC):
    """K prototypes over learned maps: the shared part of a reward model."""

    linear: bool  # margins are linear in the user weights

    @property
    @abstractmethod
    def n_prototypes(self) -> int:
        """K."""

    @abstractmethod
    def rewards(self, prompts: Tensor | None, responses: Tensor) -> Tensor:
        """Prototype rewards (B, K) of responses (B, D) to prompts (B, Dp), up to a constant per prompt."""

    def reward(self, prompts: Tensor | None, responses: Tensor, weights: Tensor) -> Tensor:
        """Rewards (B,) for user weights (B, K), up to a constant per user and prompt."""
        return (self.rewards(prompts, responses) * weights).sum(1)

    @abstractmethod
    def terms(self, questions: Questions) -> Terms:
        """What margins need of each question."""

    def margin(self, terms: Terms, weights: Tensor, question: Tensor, user: Tensor) -> Tensor:
        """Margins (B,) of answers to ``question`` (B,) by ``user`` (B,), rows of ``weights`` (U, K)."""
        if terms.margins is None:
            raise TypeError("terms of a linear variant hold margins")
        dot: Tensor = _DotProduct.apply(terms.margins, weights, question, user)  # type: ignore[no-untyped-call]
        return dot

    def moments(self, terms: Terms, weights: Tensor, question: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Margins (B,), and how far prototypes differ around them (B,): sum_k w_k (m_k - w . m)^2.

        Divided by c + 1 that is the margin's variance where the weights are Dirichlet with mean w and concentration c.
        Where margins are not linear in the weights it is zero.
        """
        if terms.margins is None:
            margin = self.margin(terms, weights, question, user)
            return margin, torch.zeros_like(margin)
        both: tuple[Tensor, Tensor] = _Moments.apply(terms.margins, weights, question, user)  # type: ignore[no-untyped-call]
        return both

    @abstractmethod
    def features(self, questions: Questions) -> Tensor:
        """(Q, m): what of a question a person's taste can turn on, to find the directions in which users differ."""

    @abstractmethod
    def grow(self, n_prototypes: int, noise: float, generator: torch.Generator) -> None:
        """Makes of one prototype K near copies (in place)."""

    def lean(self, directions: Tensor) -> None:
        """Adds <direction_k, features> to the margins of prototype k (in place), where that is a matter of prototypes.

        Args:
            directions: (K, m) in what `features` gives.
        """

    @abstractmethod
    def rescale(self, factor: float) -> None:
        """Multiplies all margins by a positive factor (in place)."""

    def loosen(self, fresh: bool) -> None:
        """Takes the form in which training is easiest (in place); `settle` brings back the one that is documented.

        Args:
            fresh: whether nothing has been learned yet.
        """

    def settle(self) -> None:
        """Undoes `loosen` (in place): the rewards are the same."""


def _near_copies(parameter: Tensor, n: int, noise: float, generator: torch.Generator) -> nn.Parameter:
    copies = parameter.detach().mean(0, keepdim=True).repeat(n, *[1] * (parameter.ndim - 1))
    spread = float(copies.square().mean().sqrt())
    return nn.Parameter(copies + noise * spread * torch.randn(copies.shape, generator=generator).to(copies))


class FixedPrototypes(Prototypes):
    """Model A: each prototype is a point, a reward falls with the squared distance from it (paper, equation 2).

    ``r_i(h) = -|f(h) - a_i|^2`` with h = [x; x_c], or x alone. The ideal point a_i is

    - ``"latent"``: sum_k w_ik p_k with p_k in R^d;
    - ``"mixture_of_maps"``: sum_k w_ik f(p_k) with p_k where the embeddings live;
    - ``"map_of_mixture"``: f(sum_k w_ik p_k), the paper's equation 2; linear in w only where f is.

    How far ideal points are from the items says how much rewards bend: of a point at infinity they are linear (the
    vector model of Carroll, 1972). Points would have far to go, so "latent" ones are trained with a curvature, the
    factor of |f(h)|^2, that is learned (`loosen`) and in the end taken into f and a (`settle`).

    Args:
        f: the map of items, D (or D + Dp) -> d.
        n_prototypes: K.
        ideal_point: one of the above.
        generator: source of the initial prototypes.
    """

    def __init__(
        self,
        f: LinearMap | MLPMap,
        n_prototypes: int,
        ideal_point: str = "latent",
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.f, self.ideal_point = f, ideal_point
        dim = f.out_dim if ideal_point == "latent" else f.in_dim
        self.points = nn.Parameter(torch.randn(n_prototypes, dim, generator=generator) / math.sqrt(dim))
        self.linear = ideal_point != "map_of_mixture" or isinstance(f, LinearMap)
        self.register_parameter("curvature", None)  # of 1, but while training
        self.curvature: nn.Parameter | None

    @property
    def n_prototypes(self) -> int:
        """K."""
        return len(self.points)

    def _map(self, h: Tensor) -> Tensor:
        return self.f(h).squeeze(1)  # type: ignore[no-any-return]

    def _map_points(self, points: Tensor) -> Tensor:
        # points live where scaled inputs live, so that their size does not hang on the encoder's
        return self._map(self.f.inputs_of(points))

    def latent_points(self) -> Tensor:
        """Prototypes in the latent space, (K, d)."""
        return self.points if self.ideal_point == "latent" else self._map_points(self.points)

    def _rewards(self, latent: Tensor) -> Tensor:
        square = latent.square().sum(1, keepdim=True)
        if self.curvature is not None:
            square = square * (self.curvature.square() + _LEAST_CURVATURE**2)
        return 2 * latent @ self.latent_points().T - square

    def rewards(self, prompts: Tensor | None, responses: Tensor) -> Tensor:
        """rho_k = 2 <f(h), q_k> - |f(h)|^2, shape (B, K): the reward up to a constant per user."""
        h = responses if prompts is None else torch.cat([responses, prompts], dim=1)
        return self._rewards(self._map(h))

    def reward(self, prompts: Tensor | None, responses: Tensor, weights: Tensor) -> Tensor:
        """Rewards (B,); see `Prototypes.reward`."""
        if self.linear:
            return super().reward(prompts, responses, weights)
        latent = self._map(responses if prompts is None else torch.cat([responses, prompts], dim=1))
        return (2 * latent * self._map_points(weights @ self.points)).sum(1) - latent.square().sum(1)

    def terms(self, questions: Questions) -> Terms:
        """Differences of prototype rewards, or of latent vectors where margins are not linear in w."""
        latent = self._map(questions.items())
        if self.linear:
            return Terms(margins=differences(self._rewards(latent), questions))
        square = latent.square().sum(1, keepdim=True)
        return Terms(difference=differences(latent, questions), offset=differences(square, questions).squeeze(1))

    def margin(self, terms: Terms, weights: Tensor, question: Tensor, user: Tensor) -> Tensor:
        """Margins (B,); see `Prototypes.margin`."""
        if terms.difference is None or terms.offset is None:
            return super().margin(terms, weights, question, user)
        ideal = self._map_points(weights @ self.points)
        return 2 * (terms.difference[question] * ideal[user]).sum(1) - terms.offset[question]

    def features(self, questions: Questions) -> Tensor:
        """f(left) - f(right), (Q, d): ideal points act on nothing else."""
        return differences(self._map(questions.items()), questions)

    def grow(self, n_prototypes: int, noise: float, generator: torch.Generator) -> None:
        """Makes of one prototype K near copies (in place)."""
        self.points = _near_copies(self.points, n_prototypes, noise, generator)

    @torch.no_grad()
    def lean(self, directions: Tensor) -> None:
        """Moves ideal points: a margin is 2 <f(left) - f(right), a>, and what does not depend on a."""
        if self.ideal_point == "latent":
            self.points.add_(directions.to(self.points) / 2)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiplies all margins by a positive factor (in place)."""
        root = math.sqrt(factor)  # margins are products of two latent vectors
        self.f.stretch(root)
        self.points.mul_(root)  # in the latent space, or where the stretched inputs live

    @torch.no_grad()
    def straighten(self, theta: Tensor) -> None:
        """Makes the reward of a new model of one latent point about linear (in place), in the form of `loosen`.

        Args:
            theta: (D,) the reward's direction, of inputs as the map sees them.
        """
        point = self.f.lead(theta / 2)
        self.points.copy_(point.expand_as(self.points))
        length = float(point.norm()) or 1.0
        self._stretch(length)
        # where all of the latent space is stretched rewards would bend with the square of the length
        self.curvature = nn.Parameter(self.points.new_tensor(_SLIGHT_CURVATURE / math.sqrt(max(1.0, length))))

    @torch.no_grad()
    def loosen(self, fresh: bool) -> None:
        """Makes the curvature a parameter, and points of length one on average, as they start."""
        if self.ideal_point != "latent" or self.curvature is not None:
            return
        length = 1.0 if fresh else min(float(self.points.square().sum(1).mean().sqrt()), _LONGEST) or 1.0
        self._stretch(length)
        curvature = _FIRST_CURVATURE if fresh else math.sqrt(length**-2 - _LEAST_CURVATURE**2)
        self.curvature = nn.Parameter(self.points.new_tensor(curvature))

    @torch.no_grad()
    def settle(self) -> None:
        """Takes the curvature into the map and the points."""
        if self.curvature is not None:
            self._stretch(math.hypot(float(self.curvature), _LEAST_CURVATURE))
            self.curvature = None

    def _stretch(self, factor: float) -> None:
        """Stretches the latent space and shrinks the points in it: products of the two stay."""
        self.f.stretch(factor)
        self.points.div_(factor)


class PromptPrototypes(Prototypes):
    """Model B: each prototype is a function of the prompt, a reward is the cosine to it (paper, section 2.2).

    ``r_i = s <f(x)/|f(x)|, z_i>`` with ``z_i = sum_k w_ik g_k(x_c)/|g_k(x_c)|`` and s a learned positive scale.

    Args:
        f: the map of responses, D -> d.
        g: the K maps of prompts, Dp -> d.
        renormalize: also divide z_i by its length, as the authors' code does; then not linear in w.
        scale: s at the start.
    """

    def __init__(
        self, f: LinearMap | MLPMap, g: LinearMap | MLPMap, renormalize: bool = False, scale: float = 4.0
    ) -> None:
        super().__init__()
        self.f, self.g, self.renormalize = f, g, renormalize
        self.linear = not renormalize
        # the logarithm keeps s positive without a clamp at which its gradient would die
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def n_prototypes(self) -> int:
        """K."""
        first = self.g.weight if isinstance(self.g, LinearMap) else self.g.bias
        return len(first)

    def _unit(self, responses: Tensor) -> Tensor:
        return F.normalize(self.f(responses).squeeze(1), dim=1)

    def rewards(self, prompts: Tensor | None, responses: Tensor) -> Tensor:
        """rho_k = s <f^(x), g^_k(x_c)>, shape (B, K)."""
        if prompts is None:
            raise TypeError("model B needs prompts")
        directions = F.normalize(self.g(prompts), dim=2)
        return self.log_scale.exp() * torch.einsum("bd,bkd->bk", self._unit(responses), directions)

    def reward(self, prompts: Tensor | None, responses: Tensor, weights: Tensor) -> Tensor:
        """Rewards (B,); see `Prototypes.reward`."""
        if self.linear:
            return super().reward(prompts, responses, weights)
        if prompts is None:
            raise TypeError("model B needs prompts")
        z = F.normalize(torch.einsum("bk,bkd->bd", weights, F.normalize(self.g(prompts), dim=2)), dim=1)
        return self.log_scale.exp() * (self._unit(responses) * z).sum(1)

    def terms(self, questions: Questions) -> Terms:
        """Differences of prototype rewards, or what z_i is made of where it is normalised."""
        if questions.prompts is None or questions.prompt is None:
            raise TypeError("model B needs prompts")
        difference = self.log_scale.exp() * differences(self._unit(questions.items()), questions)
        directions = F.normalize(self.g(questions.prompts), dim=2).index_select(0, questions.prompt)
        if self.linear:
            return Terms(margins=torch.einsum("qd,qkd->qk", difference, directions))
        return Terms(difference=difference, directions=directions)

    def margin(self, terms: Terms, weights: Tensor, question: Tensor, user: Tensor) -> Tensor:
        """Margins (B,); see `Prototypes.margin`."""
        if terms.directions is None or terms.difference is None:
            return super().margin(terms, weights, question, user)
        z = F.normalize(torch.einsum("bk,bkd->bd", weights[user], terms.directions[question]), dim=1)
        return (terms.difference[question] * z).sum(1)

    def features(self, questions: Questions) -> Tensor:
        """(f^(left) - f^(right)) x prompt, both cut to their leading directions: (Q, m)."""
        if questions.prompts is None or questions.prompt is None:
            raise TypeError("model B needs prompts")
        unit = self._unit(questions.items())
        difference = _leading(differences(unit, questions), 4)
        centred = questions.prompts - questions.prompts.mean(0)
        constant = centred.norm(dim=1).mean().expand(len(centred), 1)
        prompts = torch.cat([_leading(centred, 64), constant], dim=1)
        return torch.einsum("qa,qb->qab", difference, prompts[questions.prompt]).flatten(1)

    def grow(self, n_prototypes: int, noise: float, generator: torch.Generator) -> None:
        """Makes of one prototype K near copies (in place)."""
        for name, parameter in list(self.g.named_parameters(recurse=False)):
            setattr(self.g, name, _near_copies(parameter, n_prototypes, noise, generator))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiplies all margins by a positive factor (in place)."""
        self.log_scale.add_(math.log(factor))


class LinearPrototypes(Prototypes):
    """Rewards linear in the embedding: rho_k(h) = <theta_k, h>.

    With K = 1 this is the Bradley-Terry model on embedding differences (`btl-linear`); with more, rewards of low rank
    (LoRe; Bose et al., 2025).

    Args:
        in_dim: D, or D + Dp.
        n_prototypes: K.
    """

    linear = True

    def __init__(self, in_dim: int, n_prototypes: int = 1) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(n_prototypes, in_dim))

    @property
    def n_prototypes(self) -> int:
        """K."""
        return len(self.theta)

    def rewards(self, prompts: Tensor | None, responses: Tensor) -> Tensor:
        """<theta_k, x>, shape (B, K)."""
        h = responses if prompts is None else torch.cat([responses, prompts], dim=1)
        return h @ self.theta.T

    def terms(self, questions: Questions) -> Terms:
        """Differences of prototype rewards."""
        return Terms(margins=differences(questions.items() @ self.theta.T, questions))

    def features(self, questions: Questions) -> Tensor:
        """Embedding differences cut to their leading directions, (Q, m)."""
        return _leading(differences(questions.items(), questions), 64)

    def grow(self, n_prototypes: int, noise: float, generator: torch.Generator) -> None:
        """Makes of one prototype K near copies (in place)."""
        self.theta = _near_copies(self.theta, n_prototypes, noise, generator)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiplies all margins by a positive factor (in place)."""
        self.theta.mul_(factor)


def differences(of_items: Tensor, questions: Questions) -> Tensor:
    """Rows (Q, m) of left items less those of right ones; twice as fast as an index, and more so backwards."""
    return of_items.index_select(0, questions.left) - of_items.index_select(0, questions.right)


def _leading(x: Tensor, rank: int) -> Tensor:
    """The rows of x (n, m) in the coordinates of its leading right singular vectors, (n, min(rank, m))."""
    if x.shape[1] <= rank:
        return x
    wide = x.double()
    _, vectors = eigh(wide.T @ wide)  # deterministic, unlike a randomised SVD; float32 may not converge
    return torch.mm(x, vectors[:, -rank:].to(x))
