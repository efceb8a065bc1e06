"""Adam, as torch.optim has it; importing that imports torch._dynamo, which takes over a second."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Adam", "RowAdam", "rows_at"]


def rows_at(table: Tensor, rows: Tensor) -> Tensor:
    """The rows (U,) of a table (N, W) without gradients: numpy takes short ones in half of torch's time."""
    if table.device.type == "cpu":
        return torch.from_numpy(table.numpy().take(rows.numpy(), axis=0))
    return table.index_select(0, rows)


class RowAdam:
    """Adam on the rows of a table that a step touches; the others cost nothing (lazy, as torch's SparseAdam).

    Attributes:
        lr: learning rate.
        state: (N, 2 W + 1) both moments and the steps of each row, side by side: one visit to memory a row.
    """

    def __init__(self, n: int, width: int, lr: float, device: torch.device) -> None:
        self.lr, self.width = lr, width
        self.state = torch.zeros(n, 2 * width + 1, device=device)

    def step(self, table: Tensor, rows: Tensor, grad: Tensor) -> None:
        """Moves the rows (U,) of the table (N, W) by their gradient (U, W), in place."""
        every = len(rows) == len(table)
        state = self.state if every else rows_at(self.state, rows)
        m, v, t = state[:, : self.width], state[:, self.width : -1], state[:, -1:]
        m.lerp_(grad, 0.1)
        v.lerp_(grad.square(), 0.01)
        t += 1
        change = self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        if every:
            table -= change
        else:
            self.state.index_copy_(0, rows, state)
            table.index_copy_(0, rows, rows_at(table, rows).sub_(change))  # ten times as fast as index_add_


class Adam:
    """Adam (Kingma and Ba, 2015) with L2 weight decay, as torch.optim.Adam."""

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float, float]]) -> None:
        self.params = [(p, lr, decay) for params, lr, decay in groups for p in params]
        self.m = [torch.zeros_like(p) for p, _, _ in self.params]
        self.v = [torch.zeros_like(p) for p, _, _ in self.params]
        self.t, self.factor = 0, 1.0  # the factor scales all learning rates

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for p, _, _ in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        self.t += 1
        first, second = 1 - 0.9**self.t, math.sqrt(1 - 0.999**self.t)
        for (p, lr, decay), m, v in zip(self.params, self.m, self.v, strict=True):
            if p.grad is None:
                continue
            grad = p.grad.add(p, alpha=decay) if decay else p.grad
            m.lerp_(grad, 0.1)
            v.mul_(0.999).addcmul_(grad, grad, value=0.001)
            p.addcdiv_(m, (v.sqrt() / second).add_(1e-8), value=-self.factor * lr / first)
