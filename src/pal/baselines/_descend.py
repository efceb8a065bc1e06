"""The training loop of the baselines that have no closed form: Adam, early stopping on validation, best state kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adam import Adam
from pal.baselines._features import Features
from pal.baselines._personal import users_of
from pal.embeddings import EmbeddedComparisons
from pal.questions import compact
from pal.training import TrainConfig
from pal.users import matched

__all__ = ["SOLVED", "Batch", "Problem", "descend", "pick"]

IMPROVEMENT = 1e-3  # share of the loss that an evaluation must gain to count
SOLVED = 4e-3  # a validation loss below which nothing is left to learn, only margins to inflate


def pick(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table; unlike table[rows], its gradient is the same sum in the same order on any number of threads."""
    return torch.index_select(table, 0, rows)


@dataclass(frozen=True)
class Batch:
    """Some answers, with the items and users that they touch.

    Attributes:
        items: (I, m) of the questions asked.
        left: (Q,) rows of `items`.
        right: (Q,) rows of `items`.
        question: (B,) rows of `left` and `right`.
        asked: (Q,) those questions among all.
        user: (B,) rows of the users' table.
        label: (B,).
        weight: (B,) with a mean of about one.
    """

    items: Tensor
    left: Tensor
    right: Tensor
    question: Tensor
    asked: Tensor
    user: Tensor
    label: Tensor
    weight: Tensor

    def loss(self, margin: Tensor) -> Tensor:
        """Mean logistic loss of margins (B,)."""
        return F.binary_cross_entropy_with_logits(margin, self.label, self.weight)


class Problem:
    """Training and validation answers as tensors; a user of validation unseen in training has the row n_users.

    Attributes:
        ids: (N,) users.
        counts: (N,) answers of each.
    """

    def __init__(self, features: Features, train: EmbeddedComparisons, validation: EmbeddedComparisons) -> None:
        self.ids, user = users_of(train)
        self.n_users = len(self.ids)
        self.counts = torch.bincount(user, minlength=self.n_users).float()
        self.train = self._side(features, train, user)
        found = torch.from_numpy(matched(validation.comparisons.user_ids, self.ids, "the training data").copy())
        found = torch.where(found < 0, self.n_users, found)
        val_user = found[torch.from_numpy(validation.comparisons.user.astype("int64"))]
        self.validation = self._side(features, validation, val_user)

    def _side(self, features: Features, data: EmbeddedComparisons, user: Tensor) -> Batch:
        asked, (label, weight) = features.asked(data), features.answers(data)
        every = torch.arange(len(asked.left))
        return Batch(asked.items, asked.left, asked.right, asked.question, every, user, label, weight)

    def __len__(self) -> int:
        return len(self.train.label)

    def batch(self, rows: Tensor) -> Batch:
        """The training answers at these rows (B,), with only the items that they use."""
        a = self.train
        asked, question = compact(a.question[rows], len(a.left))
        half = len(asked)
        items, sides = compact(torch.cat([a.left[asked], a.right[asked]]), len(a.items))
        return Batch(
            a.items if len(items) == len(a.items) else a.items[items],
            sides[:half],
            sides[half:],
            question,
            asked,
            a.user[rows],
            a.label[rows],
            a.weight[rows],
        )

    def validation_loss(self, margin: Callable[[Batch], Tensor]) -> float:
        """Mean log-loss on validation; 0 without answers there."""
        batch = self.validation
        return float(batch.loss(margin(batch))) if len(batch.label) else 0.0


def descend(
    groups: Sequence[tuple[Sequence[Tensor], float, float]],
    n: int,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    config: TrainConfig,
    *,
    batch: int | None = None,
    patience: int = 6,
    drops: int = 1,
    warmup: int = 0,
) -> float:
    """Minimises a loss over random batches and leaves the parameters at their best on validation.

    Args:
        groups: parameters, learning rate, L2 weight decay.
        n: things to draw batches from (answers or people).
        loss: of the things at rows (B,).
        validate: log-loss on validation.
        config: its seed, batch_size, max_steps and max_epochs count.
        batch: things a step; None: a hundredth, from 256 to 8,192.
        patience: evaluations without improvement before the learning rates fall to a fifth.
        drops: times they fall before the end.
        warmup: steps before the first evaluation.

    Returns:
        The best validation loss.
    """
    parameters = [p for params, _, _ in groups for p in params]
    for p in parameters:
        p.requires_grad_(True)
    adam = Adam(groups)
    generator = torch.Generator().manual_seed(config.seed)
    size = min(n, batch or config.batch_size or min(8192, max(256, n // 100)))
    a_pass = -(-n // size)
    every = min(25, max(8, a_pass))
    most = config.max_steps if config.max_epochs is None else config.max_epochs * a_pass
    best, mark, bad, fallen = float("inf"), float("inf"), 0, 0
    kept = [p.detach().clone() for p in parameters]
    order, position = torch.randperm(n, generator=generator), 0
    for step in range(1, most + 1):
        if position >= n:
            order, position = torch.randperm(n, generator=generator), 0
        adam.zero_grad()
        with torch.enable_grad():
            loss(order[position : position + size]).backward()  # type: ignore[no-untyped-call]
        adam.step()
        position += size
        if step < most and (step % every or step < warmup):
            continue
        with torch.no_grad():
            value = validate()
        if value < best:
            best, kept = value, [p.detach().clone() for p in parameters]
        bad = 0 if value < mark * (1 - IMPROVEMENT) else bad + 1
        mark = value if bad == 0 else mark
        if bad >= patience:
            bad, fallen = 0, fallen + 1
            adam.factor *= 0.2
            _restore(parameters, kept)
        if fallen > drops or value < SOLVED:
            break
    _restore(parameters, kept)
    for p in parameters:
        p.requires_grad_(False)
    return best


def _restore(parameters: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, k in zip(parameters, kept, strict=True):
            p.copy_(k)
