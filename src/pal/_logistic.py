"""Linear Bradley-Terry: a logistic regression on differences of two items' vectors, without an intercept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pal.questions import compact

__all__ = ["LinearRewards"]

_ROWS = 10_000  # questions that show how much the loss bends in each direction: it need not be exact
_WIDE = 4096  # dimensions beyond which directions are the axes


@dataclass(frozen=True, eq=False)
class LinearRewards:
    """Questions and their answers, for the linear reward <theta, x> that predicts them.

    Attributes:
        items: (m, D), of the precision that theta is wanted in.
        left: (Q,) rows of items.
        right: (Q,) likewise.
        label: (Q,) float64, mean label of the answers to each question.
        weight: (Q,) float64, their total weight.
        total: sums over processes, each of which has some of the answers.
    """

    items: Tensor
    left: Tensor
    right: Tensor
    label: Tensor
    weight: Tensor
    total: Callable[[Tensor], Tensor] = lambda x: x

    @classmethod
    def of(
        cls,
        items: Tensor,
        left: Tensor,
        right: Tensor,
        answers: tuple[Tensor, Tensor, Tensor],
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> "LinearRewards":
        """Of answers, each with its question, label and weight (n,), to questions about items (m, D)."""
        question, label, weight = answers[0], answers[1].double(), answers[2].double()
        told = torch.bincount(question, weight, minlength=len(left))
        mean = torch.bincount(question, weight * label, minlength=len(left)) / told.clamp(min=1e-12)
        return cls(items, left, right, mean, told, total)

    def take(self, rows: Tensor) -> "LinearRewards":
        """The questions at these rows (m,), with only the items that they use."""
        items, sides = compact(torch.cat([self.left[rows], self.right[rows]]), len(self.items))
        left, right = sides.chunk(2)
        return replace(
            self, items=self.items[items], left=left, right=right, label=self.label[rows], weight=self.weight[rows]
        )

    def loss(self, theta: Tensor) -> float:
        """Mean log-loss for theta (D,); 0 without answers."""
        loss, weight = self.total(torch.stack([self._loss(self._margins(theta)), self.weight.sum()]))
        return float(loss / weight.clamp(min=1e-12))

    def best_on(self, validation: "LinearRewards", penalties: Sequence[float]) -> Tensor:
        """What `solve` finds, (D,), with the penalty of the least loss on validation."""
        found: list[Tensor] = []
        for penalty in penalties:
            found.append(self.solve(penalty, found[-1] if found else None))
        return min(found, key=validation.loss)

    def cross_validated(self, penalties: Sequence[float], fold: Tensor, folds: int) -> Tensor:
        """What `solve` finds, (D,), with the penalty that predicts each fold of questions best from the others.

        Args:
            penalties: descending: of equally good ones the first is taken.
            fold: (Q,) of each question, counted from 0; the same in all processes.
            folds: how many.
        """
        held_out = [replace(self, weight=self.weight * (fold == i)) for i in range(folds)]
        train = [replace(self, weight=self.weight - part.weight) for part in held_out]
        answers = [float(self.total(part.weight.sum())) for part in held_out]
        best, found = math.inf, torch.zeros(self.items.shape[1], dtype=torch.float64)
        thetas = [found] * (len(train) + 1)
        for penalty in penalties:
            root = self._root(penalty)  # steps that are even with all answers nearly are without some of them
            thetas = [each.solve(penalty, theta, root) for each, theta in zip([*train, self], thetas, strict=True)]
            loss = sum(n * part.loss(theta) for n, part, theta in zip(answers, held_out, thetas[:-1], strict=True))
            if loss < best:
                best, found = loss, thetas[-1]
        return found

    def solve(self, penalty: float, start: Tensor | None = None, root: Tensor | None = None) -> Tensor:
        """Minimises sum_q weight_q logistic(label_q, <theta, left - right>) + penalty |theta|^2 / 2.

        By L-BFGS in coordinates in which the objective is about as steep in all directions: an encoder's vectors may
        vary a thousand times as much in some as in others.

        Args:
            penalty: positive, in answers.
            start: (D,); near the solution it saves steps.
            root: `_root` of the penalty.

        Returns:
            theta (D,) float64.
        """
        from scipy.optimize import minimize  # here: not every use of pal needs it

        root = self._root(penalty) if root is None else root

        def objective(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            theta = _divided(torch.from_numpy(point), root, transposed=True)
            z = self._margins(theta)
            push = self.weight * (torch.sigmoid(z) - self.label)
            on_items = push.new_zeros(len(self.items)).index_add_(0, self.left, push)
            on_items.index_add_(0, self.right, push, alpha=-1)
            slope = torch.mv(self.items.T, on_items.to(self.items)).double()
            sums = self.total(torch.cat([self._loss(z)[None], slope]))
            value = sums[0] + penalty / 2 * theta.square().sum()
            return float(value), _divided(sums[1:] + penalty * theta, root).numpy()

        begin = torch.zeros(self.items.shape[1], dtype=torch.float64) if start is None else start
        begin = root * begin if root.ndim == 1 else root.T @ begin
        options = {"maxiter": 200, "ftol": torch.finfo(self.items.dtype).eps, "gtol": 1e-7}
        found = minimize(objective, begin.numpy(), jac=True, method="L-BFGS-B", options=options)
        return _divided(torch.from_numpy(found.x), root, transposed=True)

    @cached_property
    def _bend(self) -> Tensor:
        """How much the loss bends at a coin's odds, which is the most that it does: (D, D), or (D,) of many axes."""
        rows = torch.arange(0, len(self.left), max(1, len(self.left) // _ROWS))
        apart = self.items[self.left[rows]] - self.items[self.right[rows]]
        apart *= (self.weight[rows] * len(self.left) / max(1, len(rows)) / 4).sqrt().to(apart)[:, None]
        bend = apart.T @ apart if apart.shape[1] <= _WIDE else apart.square().sum(0)
        return self.total(bend.double())

    def _root(self, penalty: float) -> Tensor:
        """Of how much the objective bends: a lower triangle, or the diagonal (D,) where axes are looked at alone."""
        bend = self._bend
        full = bend.ndim > 1
        largest = float((bend.diagonal() if full else bend).sum())
        least = penalty + 10 * torch.finfo(self.items.dtype).eps * largest  # after rounding it still bends everywhere
        if not full:
            return (bend + least).sqrt()
        bend = bend.clone()
        bend.diagonal().add_(least)
        root: Tensor = torch.linalg.cholesky(bend)
        return root

    def _margins(self, theta: Tensor) -> Tensor:
        reward = (self.items @ theta.to(self.items)).double()
        return reward[self.left] - reward[self.right]

    def _loss(self, z: Tensor) -> Tensor:
        return (self.weight * (F.softplus(z) - self.label * z)).sum()


def _divided(x: Tensor, root: Tensor, transposed: bool = False) -> Tensor:
    """What gives x (D,) when ``root`` (or it transposed) is multiplied with it."""
    if root.ndim == 1:
        return x / root
    triangle = root.T if transposed else root
    found: Tensor = torch.linalg.solve_triangular(triangle, x[:, None], upper=transposed)
    return found[:, 0]
