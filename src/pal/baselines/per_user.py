"""A logistic regression for each person, shrunk to the pooled one."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pal.baselines.linear import fit_linear, logistic_regression
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import RewardModel
from pal.questions import tabulate
from pal.training import TrainConfig
from pal.users import rows_of

__all__ = ["PerUserModel", "fit_per_user"]

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_CELLS = 4_000_000  # users x m x m at a time


class _Features:
    """phi(x, c): the pooled linear reward, leading directions of the response, and of it times those of the prompt.

    A regression a person on all D numbers would have more unknowns than a person has answers.
    """

    def __init__(self, data: EmbeddedComparisons, theta: Tensor, n_response: int = 24, n_prompt: int = 24) -> None:
        self.pooled = theta[: data.responses.shape[1], None]
        questions, _ = tabulate(data)
        x = questions.responses
        difference = x[questions.left] - x[questions.right]
        prompts = questions.prompts
        # the directions in which compared responses differ, scaled to a spread of one
        self.response = _directions(difference, n_response if prompts is None else 8)
        self.mixed = self.prompt = None
        self.mean = torch.zeros(0)
        if prompts is not None:
            self.mean = prompts.mean(0)
            self.mixed = _directions(difference, 2)
            self.prompt = _directions(prompts - self.mean, n_prompt)

    def __call__(self, responses: Tensor, prompts: Tensor | None) -> Tensor:
        """(B, m) of responses (B, D) to prompts (B, Dp)."""
        own = torch.cat([responses @ self.pooled, responses @ self.response], dim=1)
        if prompts is None or self.mixed is None or self.prompt is None:
            return own
        both = torch.einsum("ba,bc->bac", responses @ self.mixed, (prompts - self.mean) @ self.prompt)
        return torch.cat([own, both.flatten(1)], dim=1)

    def of(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor]:
        """Differences phi(left) - phi(right) of distinct questions (Q, m) float64, and the question of each row."""
        questions, rows = tabulate(data)
        prompts = None
        if self.prompt is not None and questions.prompts is not None and questions.prompt is not None:
            prompts = questions.prompts[questions.prompt]
        left = self(questions.responses[questions.left], prompts)
        return (left - self(questions.responses[questions.right], prompts)).double(), rows


def _directions(x: Tensor, rank: int) -> Tensor:
    """(D, r): projections on the leading right singular vectors, each with a mean square of one."""
    values, vectors = torch.linalg.eigh(x.double().T @ x.double() / max(1, len(x)))
    keep = values > 1e-9 * values[-1].clamp(min=1e-30)
    values, vectors = values[keep][-rank:], vectors[:, keep][:, -rank:]
    return torch.div(vectors, values.sqrt()).float()


class PerUserModel:
    """theta_i = theta + delta_i, with a penalty on delta_i chosen on validation; delta = 0 for unseen users."""

    def __init__(
        self, frame: RewardModel, features: _Features, pooled: Tensor, ids: pl.Series, theta: Tensor, penalty: float
    ) -> None:
        self.frame, self.features, self.pooled = frame, features, pooled
        self.user_ids, self.theta, self.penalty = ids, theta, penalty

    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,)."""
        x, rows = self.features.of(data)
        found = torch.from_numpy(rows_of(data.comparisons.user_ids, self.user_ids).copy())
        table = torch.cat([self.theta, self.pooled[None]])
        user = torch.where(found < 0, len(self.theta), found)[torch.from_numpy(data.comparisons.user.astype(np.int64))]
        margin = torch.cat(
            [
                (x[r] * table[u]).sum(1)
                for r, u in zip(torch.split(rows, 1 << 18), torch.split(user, 1 << 18), strict=True)
            ]
        )
        return torch.sigmoid(margin).float().numpy()

    def with_answers(self, few: EmbeddedComparisons) -> "PerUserModel":
        """A model that knows the users in ``few``."""
        ids, theta = _solve(self.features, self.pooled, few, self.penalty)
        keep = torch.from_numpy(rows_of(self.user_ids, ids) < 0)
        merged = pl.concat([self.user_ids.filter(pl.Series(keep.numpy())).alias("id"), ids.alias("id")])
        return PerUserModel(
            self.frame, self.features, self.pooled, merged, torch.cat([self.theta[keep], theta]), self.penalty
        )

    def reward(
        self, user_id: Any = None, *, responses: Any, prompt: Any = None, weights: Any = None
    ) -> npt.NDArray[np.float32]:
        """Rewards (n,) of responses (texts or embeddings); the pooled ones for None."""
        if weights is not None:
            raise InputError("a regression a person has no weights over prototypes")
        theta = self.pooled
        if user_id is not None:
            row = int(rows_of(pl.Series([user_id]), self.user_ids)[0])
            theta = self.theta[row] if row >= 0 else self.pooled
        x = torch.from_numpy(
            np.asarray(responses if _is_array(responses) else self.frame.encode(list(responses)), np.float32)
        )
        prompts = None
        if self.features.prompt is not None:
            if prompt is None:
                raise InputError("this model takes a prompt: pass prompt=")
            one = prompt if _is_array(prompt) else self.frame.encode([prompt], "prompts")
            prompts = torch.from_numpy(np.asarray(one, np.float32)).reshape(1, -1).expand(len(x), -1)
        return (self.features(x, prompts).double() @ theta).float().numpy()


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def fit_per_user(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> PerUserModel:
    """Fits the pooled regression, then each person's."""
    frame = fit_linear(train, validation, config, penalty=1.0)
    if train.prompts is not None:  # texts of prompts are embedded apart, whatever btl-linear does with them
        named = replace(frame.config, prompt_encoder=train.prompt_encoder, prompt_revision=train.prompt_revision)
        frame = RewardModel(named, frame.prototypes, frame.users, frame.population)
    features = _Features(train, frame.prototypes.state_dict()["theta"][0])
    x, rows = features.of(train)
    label = torch.from_numpy(train.comparisons.label.copy()).double()
    given = train.comparisons.weight
    each = torch.ones_like(label) if given is None else torch.from_numpy(given.copy()).double()
    weight = torch.bincount(rows, each, minlength=len(x))
    mean = torch.bincount(rows, each * label, minlength=len(x)) / weight.clamp(min=1e-12)
    pooled = logistic_regression(x, mean, weight, 1.0)
    best = None
    for penalty in PENALTIES:
        model = PerUserModel(frame, features, pooled, *_solve(features, pooled, train, penalty), penalty)
        p = torch.from_numpy(model.predict(validation)).double().clamp(1e-9, 1 - 1e-9)
        y = torch.from_numpy(validation.comparisons.label.copy()).double()
        loss = float(F.binary_cross_entropy(p, y)) if len(y) else 0.0
        if best is None or loss < best[0]:
            best = (loss, model)
    if best is None:
        raise InputError("there are no penalties to choose from")
    return best[1]


def _solve(features: _Features, pooled: Tensor, data: EmbeddedComparisons, penalty: float) -> tuple[pl.Series, Tensor]:
    """Ids (U,) of the users in data and their theta (U, m): Newton steps for all of them at once."""
    table = data.comparisons
    present, user = np.unique(table.user, return_inverse=True)
    x, rows = features.of(data)
    order = np.argsort(user, kind="stable")
    person, rows = torch.from_numpy(user[order]), rows[torch.from_numpy(order)]
    label = torch.from_numpy(table.label[order]).double()
    weight = torch.ones_like(label) if table.weight is None else torch.from_numpy(table.weight[order]).double()
    starts = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(person, minlength=len(present)).cumsum(0)])
    m = x.shape[1]
    theta = pooled.repeat(len(present), 1)
    block = max(1, _CELLS // (m * m))
    for low in range(0, len(present), block):
        high = min(len(present), low + block)
        a, b = int(starts[low]), int(starts[high])
        lengths = (starts[low + 1 : high + 1] - starts[low:high]).tolist()
        theta[low:high] = _newton(
            x[rows[a:b]], label[a:b], weight[a:b], person[a:b] - low, lengths, theta[low:high], pooled, penalty
        )
    return table.user_ids.gather(present), theta


def _newton(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    user: Tensor,
    lengths: list[int],
    theta: Tensor,
    pooled: Tensor,
    penalty: float,
) -> Tensor:
    n, m = theta.shape
    for _ in range(12):
        p = torch.sigmoid((x * theta[user]).sum(1))
        grad = torch.zeros(n, m, dtype=x.dtype).index_add_(0, user, (weight * (p - label))[:, None] * x)
        grad += penalty * (theta - pooled)
        # sums of outer products, a matrix product a person
        scaled = x * (weight * p * (1 - p)).clamp(min=1e-12).sqrt()[:, None]
        hessian = torch.stack([part.T @ part for part in torch.split(scaled, lengths)])
        hessian.diagonal(dim1=1, dim2=2).add_(penalty)
        step = torch.linalg.solve(hessian, grad)
        # the penalty keeps steps short; a cap guards the first ones
        step = step / (step.norm(dim=1, keepdim=True) / 5.0).clamp(min=1.0)
        theta = theta - step
        if float(step.abs().max()) < 1e-6:
            break
    return theta
