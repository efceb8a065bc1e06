"""Losses of a margin and a label, their derivatives, and the probability each one implies.

One sign everywhere: higher reward = preferred, so the loss of label 1 falls as the margin grows. A label ``y`` between
0 and 1 (a tie, a soft label) costs ``y * loss(margin) + (1 - y) * loss(-margin)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._checks import one_of

__all__ = ["LOSSES", "Loss", "get_loss", "moderated", "sigmoid_slope"]

_EXPONENT_LIMIT = 20.0  # past it the exponential loss goes on as its tangent: finite for any margin


@dataclass(frozen=True)
class Loss:
    """A convex loss of the margin for label 1, with first and second derivative.

    Attributes:
        name: as in ``TrainConfig(loss=...)``.
        value: margin (B,) -> loss (B,).
        slope: margin (B,) -> d loss / d margin (B,).
        curvature: margin (B,) -> second derivative (B,); 0 for the hinge, whose corner has none.
        link: ``sigmoid(link * margin)`` is the probability the loss implies (2 for the exponential loss, whose
            population minimiser is half the log-odds); None where there is none and calibration must give it.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    link: float | None

    def __call__(self, margin: Tensor, label: Tensor) -> Tensor:
        """Loss of each comparison, shape (B,), for margins (B,) and labels (B,) in [0, 1]."""
        if self.name == "logistic":  # the same number in one softplus
            return F.softplus(margin) - label * margin
        return label * self.value(margin) + (1 - label) * self.value(-margin)

    def derivatives(self, margin: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative with respect to the margin, each (B,)."""
        if self.name == "logistic":
            p = torch.sigmoid(margin)
            return p - label, p * (1 - p)
        first = label * self.slope(margin) - (1 - label) * self.slope(-margin)
        return first, label * self.curvature(margin) + (1 - label) * self.curvature(-margin)

    def uncertain(self, margin: Tensor, label: Tensor, variance: Tensor) -> Tensor:
        """The mean loss (B,) over margins that are known up to a variance (B,), to second order."""
        if self.name == "logistic":
            mean: Tensor = _UncertainLogistic.apply(margin, label, variance)  # type: ignore[no-untyped-call]
            return mean
        return self(margin, label) + 0.5 * self.derivatives(margin, label)[1] * variance


class _UncertainLogistic(torch.autograd.Function):
    """softplus(m) - y m + p (1 - p) v / 2 with p = sigmoid(m), and its gradient in few visits to memory."""

    @staticmethod
    def forward(ctx, margin: Tensor, label: Tensor, variance: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        p = torch.sigmoid(margin)
        half = torch.addcmul(p, p, p, value=-1).mul_(0.5)
        ctx.save_for_backward(p, half, label, variance)
        return F.softplus(margin).addcmul_(label, margin, value=-1).addcmul_(half, variance)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor]:  # type: ignore[no-untyped-def]
        p, half, label, variance = ctx.saved_tensors
        slope = (1 - 2 * p).mul_(half).mul_(variance).add_(p).sub_(label)
        return slope.mul_(grad), None, half * grad


def _exponential(m: Tensor) -> Tensor:
    capped = torch.exp(-m.clamp(min=-_EXPONENT_LIMIT))
    return capped + math.exp(_EXPONENT_LIMIT) * (-m - _EXPONENT_LIMIT).clamp(min=0)


def _exponential_slope(m: Tensor) -> Tensor:
    return -torch.exp(-m.clamp(min=-_EXPONENT_LIMIT))


def _exponential_curvature(m: Tensor) -> Tensor:
    return torch.where(m > -_EXPONENT_LIMIT, torch.exp(-m.clamp(min=-_EXPONENT_LIMIT)), torch.zeros_like(m))


def smoothed_hinge(width: float, name: str = "smooth_hinge") -> Loss:
    """Hinge ``max(0, 1 - m)`` with its corner rounded by a parabola of the given width (Rennie and Srebro, 2005)."""

    def value(m: Tensor) -> Tensor:
        gap = (1 - m).clamp(min=0)
        return torch.where(gap < width, gap.square() / (2 * width), gap - width / 2)

    return Loss(
        name,
        value,
        lambda m: -((1 - m) / width).clamp(0, 1),
        lambda m: ((m < 1) & (m > 1 - width)).to(m) / width,
        None,
    )


LOSSES: dict[str, Loss] = {
    "logistic": Loss(
        "logistic",
        lambda m: F.softplus(-m),
        lambda m: -torch.sigmoid(-m),
        lambda m: torch.sigmoid(m) * torch.sigmoid(-m),
        1.0,
    ),
    "exponential": Loss("exponential", _exponential, _exponential_slope, _exponential_curvature, 2.0),
    "hinge": Loss(
        "hinge",
        lambda m: (1 - m).clamp(min=0),
        lambda m: -(m < 1).to(m),
        lambda m: torch.zeros_like(m),
        None,
    ),
    "smooth_hinge": smoothed_hinge(1.0),
}


def get_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        InputError: there is none.
    """
    one_of("loss", name, sorted(LOSSES))
    return LOSSES[name]


def moderated(margin: Tensor, variance: Tensor) -> Tensor:
    """The margin (B,) whose sigmoid is about the mean of sigmoid over a normal margin of that variance (B,).

    MacKay (1992), "The evidence framework applied to classification networks".
    """
    return margin / (1 + math.pi / 8 * variance).sqrt()


def sigmoid_slope(
    margin: Tensor, label: Tensor, start: float = 1.0, weight: Tensor | None = None, sure: float = 1.0
) -> float:
    """The slope ``a > 0`` for which ``sigmoid(a * margin)`` predicts the labels best (Platt, 1999, without offset).

    A normal prior of its logarithm, around that of ``start`` with precision ``sure`` (about four answers' worth a
    unit), keeps it finite where the margins separate the labels. Without comparisons it is ``start``.
    """
    m, y = margin.double(), label.double()
    c = torch.ones_like(y) if weight is None else weight.double()
    if not len(m) or not bool((m != 0).any()):
        return start
    centre = math.log(start)

    def objective(t: float) -> float:
        z = math.exp(t) * m
        return float((c * (F.softplus(z) - y * z)).sum()) + 0.5 * sure * (t - centre) ** 2

    t = centre
    value = objective(t)
    for _ in range(50):  # Newton on the log of the slope, with halving
        z = math.exp(t) * m
        p = torch.sigmoid(z)
        first = float((c * (p - y) * z).sum()) + sure * (t - centre)
        second = float((c * (p * (1 - p) * z.square() + (p - y) * z)).sum()) + sure
        step = max(-1.0, min(1.0, -first / max(abs(second), 1.0)))
        while abs(step) > 1e-10 and objective(t + step) > value:
            step /= 2
        t += step
        value = objective(t)
        if abs(step) < 1e-9:
            break
    return math.exp(t)
