"""Logistic regressions of many people at once, each with an offset and shrunk to the same point."""

import torch
from torch import Tensor

__all__ = ["Tastes", "solve_ridge"]

_CELLS = 4_000_000  # users x m x m at a time


class Tastes:
    """Answers sorted by user: what `solve_ridge` and the simplex solver take.

    Attributes:
        x: (Q, m) float64, what a question asks of a person's taste.
        offset: (Q,) float64, the part of the margin that is everybody's.
        rows: (B,) question of each answer.
        user: (B,) ascending, in [0, n).
        label: (B,) float64.
        weight: (B,) float64.
        n: users.
    """

    def __init__(
        self, x: Tensor, offset: Tensor, rows: Tensor, user: Tensor, label: Tensor, weight: Tensor, n: int
    ) -> None:
        order = torch.argsort(user, stable=True)
        self.x, self.offset, self.n = x.double(), offset.double(), n
        self.rows, self.user = rows[order], user[order]
        self.label, self.weight = label[order].double(), weight[order].double()


def solve_ridge(tastes: Tastes, pooled: Tensor, penalty: float, start: Tensor | None = None) -> Tensor:
    """For each user the minimum of sum_j weight_j logistic(label_j, b_j + u . x_j) + penalty |u - pooled|^2 / 2.

    Args:
        tastes: the answers.
        pooled: (m,) what users are shrunk to.
        penalty: positive, in answers.
        start: (n, m); None: pooled.

    Returns:
        (n, m) float64.
    """
    n, m = tastes.n, tastes.x.shape[1]
    table = pooled.double().repeat(n, 1) if start is None else start.clone()
    counts = torch.bincount(tastes.user, minlength=n)
    starts = counts.cumsum(0) - counts
    order = torch.argsort(counts)  # people with about as many answers are stacked
    low = 0
    while low < n:
        # by the most answers of a first guess at the block: those after it have more
        high = min(n, low + max(1, _CELLS // (m * max(m, int(counts[order[low]]), 1))))
        longest = max(1, int(counts[order[high - 1]]))
        high = min(high, low + max(1, _CELLS // (m * max(m, longest))))
        people = order[low:high]
        place = torch.arange(max(1, int(counts[people[-1]])))
        there = place < counts[people][:, None]
        rows = (starts[people][:, None] + place).clamp(max=max(0, len(tastes.rows) - 1))
        table[people] = _newton(tastes, rows, there, table[people], pooled.double(), penalty)
        low = high
    return table


def _newton(tastes: Tastes, rows: Tensor, there: Tensor, table: Tensor, pooled: Tensor, penalty: float) -> Tensor:
    """Vectors (n, m) of people with answers at ``rows`` (n, L), as far as these are ``there`` (n, L)."""
    if not len(tastes.rows):
        return pooled.expand_as(table)
    asked = tastes.rows[rows]
    x, offset, label = tastes.x[asked], tastes.offset[asked], tastes.label[rows]  # (n, L, m), (n, L)
    weight = tastes.weight[rows] * there
    for _ in range(12):
        p = torch.sigmoid(offset + torch.einsum("nlm,nm->nl", x, table))
        grad = torch.einsum("nlm,nl->nm", x, weight * (p - label)) + penalty * (table - pooled)
        scaled = x * (weight * p * (1 - p)).sqrt()[:, :, None]
        hessian = scaled.transpose(1, 2) @ scaled
        hessian.diagonal(dim1=1, dim2=2).add_(penalty)
        step = torch.linalg.solve(hessian, grad)
        # the penalty keeps steps short; a cap guards the first ones
        step = step / (step.norm(dim=1, keepdim=True) / 5.0).clamp(min=1.0)
        table = table - step
        if float(step.abs().max()) < 1e-5:
            break
    return table
