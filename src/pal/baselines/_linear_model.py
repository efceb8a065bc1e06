"""Baselines in which a person is a vector: margin = offset_q + u . x_q, found by a convex solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._checks import tensor
from pal.adaptation import solve_weights
from pal.baselines._newton import Tastes, solve_ridge
from pal.baselines._personal import PersonalModel, answers_of, best_on, users_of
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import RewardModel
from pal.users import matched

__all__ = ["Linear", "LinearModel", "People"]

_PIECE = 1 << 18  # answers whose vectors are gathered at once


@dataclass(frozen=True, eq=False)
class People:
    """Vectors of N users in a linear model.

    Attributes:
        ids: (N,).
        table: (N, m) float64.
        pooled: (m,) of a person of whom nothing is known; what the others are shrunk to.
        strength: of that shrinking, in answers.
        simplex: whether vectors are weights on the simplex.
    """

    ids: pl.Series
    table: Tensor
    pooled: Tensor
    strength: float
    simplex: bool = False

    @classmethod
    def learn(
        cls,
        ids: pl.Series,
        tastes: Tastes,
        pooled: Tensor,
        strength: float,
        simplex: bool = False,
        start: Tensor | None = None,
    ) -> "People":
        """Users from their answers, by the convex solver; a start (N, m) near the solution only saves time."""
        if not simplex:
            return cls(ids, solve_ridge(tastes, pooled, strength, start), pooled, strength)
        if len(pooled) == 1:
            return cls(ids, pooled.new_ones(tastes.n, 1), pooled, strength, True)
        solution = solve_weights(
            tastes.x[tastes.rows],
            tastes.label,
            tastes.user,
            tastes.n,
            pooled / pooled.sum(),
            strength,
            weight=tastes.weight,
        )
        return cls(ids, solution.weights.double(), pooled, strength, True)

    def merged(self, other: "People") -> "People":
        """These users and the others; where a user is in both, the other's vector counts."""
        keep = torch.from_numpy(matched(self.ids, other.ids, "the new answers") < 0)
        ids = pl.concat([self.ids.filter(pl.Series(keep.numpy())).alias("id"), other.ids.alias("id")])
        return replace(self, ids=ids, table=torch.cat([self.table[keep], other.table]))


class Linear(ABC):
    """The shared part of a linear model: margin = offset_q + u . x_q."""

    @abstractmethod
    def questions(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor, Tensor]:
        """Of distinct questions the vector x (Q, m) and the offset (Q,), float64; the question of each row (n,)."""

    @abstractmethod
    def rewards(self, responses: Tensor, prompts: Tensor | None, taste: Tensor) -> Tensor:
        """Rewards (B,) of responses to prompts for one taste (m,)."""

    def tastes(self, data: EmbeddedComparisons) -> tuple[pl.Series, Tastes]:
        """Ids of the users in data, and their answers."""
        ids, user = users_of(data)
        x, offset, rows = self.questions(data)
        return ids, Tastes(x, offset, rows, user, *answers_of(data), len(ids))


class LinearModel(PersonalModel):
    """A shared linear part and a vector for each user."""

    def __init__(self, frame: RewardModel, shared: Linear, people: People) -> None:
        self.frame, self.shared, self.people = frame, shared, people

    @property
    def user_ids(self) -> pl.Series:
        """(N,) ids of the users it knows."""
        return self.people.ids

    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,); unseen users have the pooled vector."""
        x, offset, question = self.shared.questions(data)
        table = torch.cat([self.people.table, self.people.pooled[None]]).float()
        x, offset, user = x.float(), offset.float(), self.rows(data)
        pieces = zip(torch.split(question, _PIECE), torch.split(user, _PIECE), strict=True)
        margin = [offset[q] + (x[q] * table[u]).sum(1) for q, u in pieces]
        return torch.sigmoid(torch.cat(margin)).clamp(1e-7, 1 - 1e-7).numpy()

    def with_answers(self, few: EmbeddedComparisons) -> Self:
        """A model that knows the users in ``few`` too, the shared part frozen."""
        p = self.people
        learned = People.learn(*self.shared.tastes(few), p.pooled, p.strength, p.simplex)
        return self._with(p.merged(learned))

    def _with(self, people: People) -> Self:
        return type(self)(self.frame, self.shared, people)

    def _rewards(self, user: int | None, responses: Tensor, prompts: Tensor | None, weights: Any) -> Tensor:
        return self.shared.rewards(responses, prompts, self._taste(user, weights))

    def _taste(self, user: int | None, weights: Any) -> Tensor:
        if weights is not None:
            return self._given(weights)
        return self.people.pooled if user is None else self.people.table[user]

    def _given(self, weights: Any) -> Tensor:
        if not self.people.simplex:
            raise InputError(f"{type(self).__name__} has no weights over prototypes: pass a user id")
        given = tensor("weights", weights).double()
        fits = given.shape == self.people.pooled.shape
        if not fits or not bool((given >= 0).all()) or abs(float(given.sum()) - 1) > 1e-4:
            raise InputError(f"weights must be {len(self.people.pooled)} numbers of at least 0 that sum to 1")
        return given

    @classmethod
    def chosen(
        cls,
        frame: RewardModel,
        shared: Linear,
        train: EmbeddedComparisons,
        validation: EmbeddedComparisons,
        pooled: Tensor,
        strengths: Iterable[float],
        simplex: bool = False,
    ) -> Self:
        """The model whose strength of shrinking predicts validation best, the shared part given."""
        ids, tastes = shared.tastes(train)

        def models() -> Iterator[Self]:
            start = None
            for strength in strengths:
                people = People.learn(ids, tastes, pooled, strength, simplex, start)
                start = people.table
                yield cls(frame, shared, people)

        return best_on(validation, models(), lambda model: model.predict(validation))
