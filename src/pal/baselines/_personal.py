"""What the personal baselines share: users found by id, the interface of a reward model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._while_better import while_better
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError, UnknownUserError
from pal.model import RewardModel
from pal.users import matched, row_of

__all__ = ["PersonalModel", "answers_of", "best_on", "log_loss", "users_of"]

T = TypeVar("T")


def users_of(data: EmbeddedComparisons) -> tuple[pl.Series, Tensor]:
    """Ids (U,) of the users with answers in data, and each row's user (n,) among them."""
    present, user = np.unique(data.comparisons.user, return_inverse=True)
    return data.comparisons.user_ids.gather(present), torch.from_numpy(user.astype(np.int64))


def answers_of(data: EmbeddedComparisons) -> tuple[Tensor, Tensor]:
    """Labels and weights (n,) of the rows, float64."""
    label = torch.from_numpy(data.comparisons.label.copy()).double()
    given = data.comparisons.weight
    return label, torch.ones_like(label) if given is None else torch.from_numpy(given.copy()).double()


def log_loss(probability: npt.NDArray[Any], data: EmbeddedComparisons) -> float:
    """Mean log-loss of predicted probabilities (n,) on the rows of data; 0 without rows."""
    label, weight = answers_of(data)
    if not len(label):
        return 0.0
    p = torch.from_numpy(probability).double().clamp(1e-9, 1 - 1e-9)
    return float(F.binary_cross_entropy(p, label, weight, reduction="sum") / weight.sum().clamp(min=1e-12))


@dataclass(frozen=True)
class _Judged(Generic[T]):
    model: T
    loss: float


def best_on(validation: EmbeddedComparisons, models: Iterable[T], predict: Callable[[T], npt.NDArray[Any]]) -> T:
    """The first of the models with the least log-loss on validation; stops once two in a row are worse than the best.

    Raises:
        InputError: there are no models.
    """
    return while_better((_Judged(model, log_loss(predict(model), validation)) for model in models), patience=2).model


class PersonalModel(ABC):
    """A baseline with something of its own for each user.

    Attributes:
        frame: checks data and encodes texts.
        user_ids: (N,) users it knows.
    """

    frame: RewardModel

    @property
    @abstractmethod
    def user_ids(self) -> pl.Series:
        """(N,) ids of the users it knows."""

    @abstractmethod
    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,); unseen users as people of whom nothing is known."""

    @abstractmethod
    def with_answers(self, few: EmbeddedComparisons) -> Self:
        """A model that has learned the users in ``few`` from their answers there, the shared part frozen."""

    @abstractmethod
    def _rewards(self, user: int | None, responses: Tensor, prompts: Tensor | None, weights: Any) -> Tensor: ...

    def rows(self, data: EmbeddedComparisons) -> Tensor:
        """The user of each row (n,) among those it knows; their number for unseen users."""
        found = torch.from_numpy(matched(data.comparisons.user_ids, self.user_ids, "the model").copy())
        found = torch.where(found < 0, len(self.user_ids), found)
        return found[torch.from_numpy(data.comparisons.user.astype(np.int64))]

    def row(self, user_id: Any) -> int | None:
        """Row of one user; None for None.

        Raises:
            UnknownUserError: the user is unseen.
        """
        if user_id is None:
            return None
        row = row_of(user_id, self.user_ids)
        if row < 0:
            raise UnknownUserError(f"user {user_id!r} is unseen: call with_answers with some of their comparisons")
        return row

    def row_for(self, user_id: Any, weights: Any) -> int | None:
        """Likewise, where weights may stand in place of a user."""
        if user_id is not None and weights is not None:
            raise InputError("user_id and weights are both given: leave one out")
        return self.row(user_id)

    def reward(
        self, user_id: Any = None, *, responses: Any, prompt: Any = None, weights: Any = None
    ) -> npt.NDArray[np.float32]:
        """Rewards (n,) of responses for one user; higher = preferred, up to a constant per user and prompt.

        Args:
            user_id: a user the model knows; None for a person of whom nothing is known.
            responses: n texts, or their embeddings (n, D).
            prompt: a text or its embedding (Dp,), where the model takes one.
            weights: (K,) in place of an id, where users have weights over prototypes.

        Raises:
            UnknownUserError: the user is unseen.
            InputError: as `RewardModel.vectors`; a user and weights.
        """
        row = self.row_for(user_id, weights)
        prompts, x = self.frame.vectors(prompt, responses)
        with torch.no_grad():
            return self._rewards(row, x, prompts, weights).float().numpy()
