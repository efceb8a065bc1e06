"""Pooled Bradley-Terry on embedding differences: P(left preferred) = sigmoid(theta . (x_left - x_right))."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel, make_prototypes
from pal.prototypes import LinearPrototypes
from pal.questions import tabulate
from pal.training import TrainConfig, model_config
from pal.users import UserWeights

__all__ = ["answers_by_question", "fit_linear", "logistic_regression"]

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


def fit_linear(
    train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig, penalty: float | None = None
) -> RewardModel:
    """`btl-linear`: a reward model with one linear prototype.

    Args:
        train: comparisons.
        validation: comparisons that choose the penalty.
        config: its loss is not used (logistic).
        penalty: of half the squared length of theta, in answers (scikit-learn's 1 / C); None: chosen on validation.
    """
    shape = replace(model_config(train, replace(config, model="a", loss="logistic"), 1), model="linear")
    prototypes = make_prototypes(shape, torch.Generator().manual_seed(config.seed))
    if not isinstance(prototypes, LinearPrototypes):
        raise TypeError("a linear config makes linear prototypes")
    empty = UserWeights.none(1, train.comparisons.user_ids)
    model = RewardModel(shape, prototypes, empty, torch.ones(1))
    x, label, weight = _differences(model, train)
    x_val, label_val, weight_val = _differences(model, validation)
    best, theta = None, None
    for candidate in PENALTIES if penalty is None else (penalty,):
        theta = logistic_regression(x, label, weight, candidate, theta)
        loss = F.binary_cross_entropy_with_logits(x_val @ theta, label_val, weight_val, reduction="sum")
        if best is None or float(loss) < best[0]:
            best = (float(loss), theta)
    with torch.no_grad():
        if best is not None:
            prototypes.theta.copy_(best[1][None])
    present = train.comparisons.user_counts().nonzero()[0]
    n = len(present)
    counts = torch.from_numpy(train.comparisons.user_counts()[present].copy())
    users = UserWeights(train.comparisons.user_ids.gather(present), torch.ones(n, 1), counts, torch.ones(n))
    return model.with_users(users)


def _differences(model: RewardModel, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding differences of distinct questions (Q, D), mean label (Q,) and weight (Q,) of their answers."""
    questions, rows = tabulate(data)
    if model.config.prompt == "concatenate":
        questions = questions.concatenated()
    h = questions.items()
    return (h[questions.left] - h[questions.right]).double(), *answers_by_question(data, rows, len(questions))


def answers_by_question(data: EmbeddedComparisons, question: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean label (n,) and total weight (n,) of the answers to each of n questions, float64."""
    label = torch.from_numpy(data.comparisons.label.copy()).double()
    given = data.comparisons.weight
    each = torch.ones_like(label) if given is None else torch.from_numpy(given.copy()).double()
    weight = torch.bincount(question, each, minlength=n)
    return torch.bincount(question, each * label, minlength=n) / weight.clamp(min=1e-12), weight


def logistic_regression(
    x: Tensor, label: Tensor, weight: Tensor, penalty: float, start: Tensor | None = None
) -> Tensor:
    """Minimises sum_j weight_j logistic(label_j, theta . x_j) + penalty |theta|^2 / 2 by Newton steps; no intercept.

    Args:
        x: (n, D) float64.
        label: (n,) in [0, 1].
        weight: (n,).
        penalty: positive.
        start: (D,); near the solution it saves steps.

    Returns:
        theta (D,).
    """
    theta = torch.zeros(x.shape[1], dtype=x.dtype) if start is None else start

    def objective(t: Tensor) -> Tensor:
        z = x @ t
        return (weight * (F.softplus(z) - label * z)).sum() + 0.5 * penalty * t.square().sum()

    value = objective(theta)
    for _ in range(100):
        p = torch.sigmoid(x @ theta)
        grad = x.T @ (weight * (p - label)) + penalty * theta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x
        hessian.diagonal().add_(penalty)
        step = torch.linalg.solve(hessian, -grad)
        scale = 1.0
        while objective(theta + scale * step) > value and scale > 1e-8:
            scale /= 2
        theta = theta + scale * step
        value = objective(theta)
        if float(grad @ step) > -1e-10 * max(1.0, float(value)):
            break
    return theta
