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
    starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    block = max(1, _CELLS // (m * m))
    for low in range(0, n, block):
        high = min(n, low + block)
        part = slice(int(starts[low]), int(starts[high]))
        rows = tastes.rows[part]
        table[low:high] = _newton(
            tastes.x[rows],
            tastes.offset[rows],
            tastes.label[part],
            tastes.weight[part],
            tastes.user[part] - low,
            table[low:high],
            pooled.double(),
            penalty,
        )
    return table


def _newton(
    x: Tensor,
    offset: Tensor,
    label: Tensor,
    weight: Tensor,
    user: Tensor,
    table: Tensor,
    pooled: Tensor,
    penalty: float,
) -> Tensor:
    n, m = table.shape
    lengths = torch.bincount(user, minlength=n).tolist()
    for _ in range(12):
        p = torch.sigmoid(offset + (x * table[user]).sum(1))
        grad = torch.zeros(n, m, dtype=x.dtype).index_add_(0, user, (weight * (p - label))[:, None] * x)
        grad += penalty * (table - pooled)
        # sums of outer products, a matrix product a person
        scaled = x * (weight * p * (1 - p)).clamp(min=1e-12).sqrt()[:, None]
        hessian = torch.stack([part.T @ part for part in torch.split(scaled, lengths)])
        hessian.diagonal(dim1=1, dim2=2).add_(penalty)
        step = torch.linalg.solve(hessian, grad)
        # the penalty keeps steps short; a cap guards the first ones
        step = step / (step.norm(dim=1, keepdim=True) / 5.0).clamp(min=1.0)
        table = table - step
        if float(step.abs().max()) < 1e-5:
            break
    return table
