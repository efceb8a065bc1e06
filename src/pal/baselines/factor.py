"""Logistic matrix factorisation, for where many people answer the same questions.

As Salakhutdinov and Mnih (2007), "Probabilistic Matrix Factorization", with a logistic likelihood.

``margin_iq = b_q + s_i + u_i . v_q``: what matters of a question is which one it is. b_q is shrunk to what the pooled
logistic regression says of it; of questions never seen in training this and s_i are all that is said. s_i, a person's
own leaning to one side, is there where every question compares the same two responses (votes).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._while_better import while_better
from pal.baselines._descend import SOLVED, Batch, Problem, descend, pick
from pal.baselines._features import PENALTIES, Features, frame_of, pooled_regression
from pal.baselines._linear_model import Linear, LinearModel
from pal.baselines._lookup import Lookup
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["FactorModel", "fit_factor"]

RANKS = (2, 4, 8, 16)
LAMBDAS = (8.0, 4.0, 2.0, 1.0)
BIAS_PENALTY = 0.3
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3)
LR, USER_LR = 3e-2, 3e-2


class _Table(Linear):
    """The table of questions: b (C,) beside the pooled margin, v (C, r), and the pooled regression for other ones."""

    def __init__(self, lookup: Lookup, features: Features, theta: Tensor, bias: Tensor, vectors: Tensor) -> None:
        self.lookup, self.features, self.theta = lookup, features, theta
        self.bias, self.vectors = bias, vectors

    def questions(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
        """+-v_q and the offset of each distinct question; of those never seen v is 0, a person's leaning apart."""
        asked = self.features.asked(data)
        code, sign = self.lookup.codes(data, asked)
        return *self._of(code, sign, asked.difference() @ self.theta), asked.question

    def _of(self, code: Tensor, sign: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        bias = torch.cat([self.bias, self.bias.new_zeros(2)])
        vectors = _with_unknown(self.vectors, self.lookup.one_pair)
        return (sign[:, None] * vectors[code]).double(), pooled + (sign * bias[code]).double()

    def rewards(self, responses: Tensor, prompts: Tensor | None, taste: Tensor) -> Tensor:
        """Mean margin over the other responses, (B,), of responses found by their vectors."""
        prompt = None if prompts is None or not len(prompts) else prompts[0]
        named, names = self.lookup.named(prompt, responses, joint=False)
        return self.named_rewards(names, named, responses, prompts, taste)

    def named_rewards(
        self, names: list[str], prompt: str, responses: Tensor, prompts: Tensor | None, taste: Tensor
    ) -> Tensor:
        """Likewise of responses of these ids."""
        n = len(names)
        left, right = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
        pooled = self.features(responses, prompts).double() @ self.theta
        columns = {"left": [names[i] for i in left], "right": [names[i] for i in right]}
        pairs = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
        code, sign = self.lookup.find(pairs.with_columns(prompt=pl.lit(prompt)))
        x, offset = self._of(code, sign, pooled[left] - pooled[right])
        return (offset + x @ taste).reshape(n, n).mean(1)


def _with_unknown(vectors: Tensor, lean: bool) -> Tensor:
    """The vectors (n, r) with those of unknown questions (`Lookup.find`): of the pair of all the leaning is known."""
    unknown = vectors.new_zeros(2, vectors.shape[1])
    if lean:
        unknown[0, 0] = 1.0
    return torch.cat([vectors, unknown])


class FactorModel(LinearModel):
    """A vector for each question and each user; rewards are known up to what was compared.

    The reward of a response is its mean margin over the responses beside it, so that of two it is half their margin.
    """

    def reward(
        self, user_id: Any = None, *, responses: Any, prompt: Any = None, weights: Any = None
    ) -> npt.NDArray[np.float32]:
        """Rewards (n,); see `PersonalModel.reward`. Texts are found by their ids, embeddings by their values."""
        shared = self.shared
        if not isinstance(shared, _Table) or isinstance(responses, np.ndarray | Tensor):
            return super().reward(user_id, responses=responses, prompt=prompt, weights=weights)
        taste = self._taste(self.row_for(user_id, weights), weights)
        prompts, x = self.frame.vectors(prompt, responses)
        named, names = shared.lookup.named(prompt, responses, self.frame.config.prompt == "joint")
        return shared.named_rewards(names, named, x, prompts, taste).float().numpy()


@dataclass(frozen=True)
class _Fit:
    """b (n,), v (n, r), with a one before it where people lean to a side, the mean person (r,), and how they came."""

    bias: Tensor
    vectors: Tensor
    pooled: Tensor
    penalty: float
    loss: float


def fit_factor(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> FactorModel:
    """Fits questions and people together; rank and penalties chosen on validation; then each person exactly.

    Args:
        train: comparisons.
        validation: comparisons that stop training and choose.
        config: its seed, batch_size, max_steps and max_epochs count.
    """
    frame = frame_of(train, config)
    features = Features.wide(train, frame)
    theta = pooled_regression(features, train, validation, PENALTIES)
    lookup = Lookup(train)
    problem = Problem(features, train, validation)
    sides = _side(lookup, features, theta, train), _side(lookup, features, theta, validation)
    n, lean = len(lookup), lookup.one_pair

    def fit(rank: int, penalty: float) -> _Fit:
        return _fit(problem, sides, n, lean, rank, penalty, config)

    penalty = while_better((fit(8, penalty) for penalty in LAMBDAS), SOLVED).penalty
    found = while_better((fit(rank, penalty) for rank in RANKS), SOLVED)
    shared = _Table(lookup, features, theta, found.bias, found.vectors)
    return FactorModel.chosen(frame, shared, train, validation, found.pooled, STRENGTHS)


@dataclass(frozen=True)
class _Side:
    """Of the distinct questions of some data: code, sign and pooled margin, each (Q,)."""

    code: Tensor
    sign: Tensor
    pooled: Tensor


def _side(lookup: Lookup, features: Features, theta: Tensor, data: EmbeddedComparisons) -> _Side:
    asked = features.asked(data)
    return _Side(*lookup.codes(data, asked), (asked.difference() @ theta).float())


def _fit(
    problem: Problem, sides: tuple[_Side, _Side], n: int, lean: bool, rank: int, penalty: float, config: TrainConfig
) -> _Fit:
    generator = torch.Generator().manual_seed(config.seed)
    bias = torch.zeros(n)
    vectors = 0.3 * torch.randn(n, rank, generator=generator)
    mean, people = torch.zeros(rank + lean), 0.3 * torch.randn(problem.n_users, rank + lean, generator=generator)

    def full() -> Tensor:
        return torch.cat([torch.ones(n, 1), vectors], dim=1) if lean else vectors

    def margin(batch: Batch, side: _Side, table: Tensor) -> Tensor:
        known = _with_unknown(full(), lean)
        code, sign = side.code[batch.asked], side.sign[batch.asked]
        offset = side.pooled[batch.asked] + sign * pick(torch.cat([bias, bias.new_zeros(2)]), code)
        x = sign[:, None] * pick(known, code)
        return pick(offset, batch.question) + (pick(x, batch.question) * pick(table, batch.user)).sum(1)

    def loss(rows: Tensor) -> Tensor:
        batch = problem.batch(rows)
        ridge = penalty * (vectors.square().sum() + people.square().sum()) + BIAS_PENALTY * bias.square().sum()
        return batch.loss(margin(batch, sides[0], mean + people)) + 0.5 * ridge / len(problem)

    def validate() -> float:
        table = torch.cat([mean + people, mean[None]])
        return problem.validation_loss(lambda batch: margin(batch, sides[1], table))

    groups = [([vectors, bias], LR, 0.0), ([mean, people], USER_LR, 0.0)]
    value = descend(groups, len(problem), loss, validate, config)
    return _Fit(bias, full(), (mean + people.mean(0)).double(), penalty, value)
