"""One metric for all and an ideal point for each.

Canal, Mason, Vinayak and Nowak (2022), "One for all: simultaneous metric and preference learning over multiple users".

``r_i(h) = -(h - u_i)' M (h - u_i)``: its difference is linear in M and v_i = -2 M u_i. The paper's estimator for
metrics of low rank bounds the nuclear norm of [M, v_1, ..., v_N]; here it is penalised in its factored form: M = L L',
v_i = -2 L z_i, with (lambda / 2) (2 |L|^2 + sum_i |z_i - z|^2), where |L|^2 = tr M, and z is the mean person, to whom
new ones are shrunk. M is positive semidefinite by its form; with L frozen a person's z_i is a convex problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pal._while_better import while_better
from pal.baselines._descend import SOLVED, Batch, Problem, descend, pick
from pal.baselines._features import PENALTIES, Features, frame_of, pooled_regression
from pal.baselines._linear_model import Linear, LinearModel
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["MetricModel", "fit_metric"]

RANK = 16  # of the metric, at most; the penalty decides what is used of it
LAMBDAS = (8.0, 4.0, 2.0, 1.0, 0.3)
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
LR = 3e-3


class _Metric(Linear):
    """margin = 2 z_i . L'(h_left - h_right) - |L'h_left|^2 + |L'h_right|^2."""

    def __init__(self, features: Features, factor: Tensor) -> None:
        self.features, self.factor = features, factor

    def questions(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
        """Twice the latent differences, and the differences of squared lengths."""
        asked = self.features.asked(data)
        latent = (asked.items @ self.factor).double()
        square = latent.square().sum(1)
        left, right = asked.left, asked.right
        return 2 * (latent[left] - latent[right]), square[right] - square[left], asked.question

    def rewards(self, responses: Tensor, prompts: Tensor | None, taste: Tensor) -> Tensor:
        """-(h - u)' M (h - u) up to a constant per user, (B,)."""
        latent = (self.features(responses, prompts) @ self.factor).double()
        return 2 * latent @ taste - latent.square().sum(1)


class MetricModel(LinearModel):
    """A metric M = L L' that all share, and an ideal point z_i = L'u_i for each user; unseen users have the mean."""

    @property
    def metric(self) -> Tensor:
        """M, (m, m), over the features of items."""
        if not isinstance(self.shared, _Metric):
            raise TypeError("a metric model holds a metric")
        return self.shared.factor @ self.shared.factor.T


@dataclass(frozen=True)
class _Fit:
    """L (m, r), the mean ideal point (r,), and the validation loss."""

    factor: Tensor
    pooled: Tensor
    loss: float


def fit_metric(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> MetricModel:
    """Fits metric and ideal points together, lambda chosen on validation; then each ideal point exactly.

    Args:
        train: comparisons.
        validation: comparisons that stop training, and choose lambda and the penalty on ideal points at the end.
        config: its seed, batch_size, max_steps and max_epochs count.
    """
    frame = frame_of(train, config)
    features = Features.wide(train, frame)
    problem = Problem(features, train, validation)
    theta = pooled_regression(features, train, validation, PENALTIES).float()

    def fits() -> Iterator[_Fit]:
        for penalty in LAMBDAS:
            yield _fit(problem, theta, penalty, config)

    found = while_better(fits(), SOLVED)
    return MetricModel.chosen(frame, _Metric(features, found.factor), train, validation, found.pooled, STRENGTHS)


def _fit(problem: Problem, theta: Tensor, penalty: float, config: TrainConfig) -> _Fit:
    generator = torch.Generator().manual_seed(config.seed)
    m, rank = len(theta), max(1, min(RANK, len(theta)))
    length = theta.norm().clamp(min=1e-3)
    # the pooled reward is the first direction of L at the start, the others are small
    factor = 0.3 * (length / m) ** 0.5 * torch.randn(m, rank, generator=generator)
    factor[:, 0] = theta / length.sqrt()
    mean = torch.zeros(rank)
    mean[0] = 0.5 * length.sqrt()
    points = 0.1 * torch.randn(problem.n_users, rank, generator=generator)

    def margin(batch: Batch, table: Tensor) -> Tensor:
        latent = batch.items @ factor
        square = latent.square().sum(1)
        x = 2 * (pick(latent, batch.left) - pick(latent, batch.right))
        offset = pick(square, batch.right) - pick(square, batch.left)
        return pick(offset, batch.question) + (pick(x, batch.question) * pick(table, batch.user)).sum(1)

    def loss(rows: Tensor) -> Tensor:
        batch = problem.batch(rows)
        ridge = 2 * factor.square().sum() + points.square().sum()
        return torch.add(batch.loss(margin(batch, mean + points)), 0.5 * penalty / len(problem) * ridge)

    def validate() -> float:
        table = torch.cat([mean + points, mean[None]])
        return problem.validation_loss(lambda batch: margin(batch, table))

    groups = [([factor], LR, 0.0), ([mean, points], 5 * LR, 0.0)]
    value = descend(groups, len(problem), loss, validate, config)
    return _Fit(factor.detach(), (mean + points.mean(0)).detach().double(), value)
