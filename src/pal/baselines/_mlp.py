"""A reward from an item and a person's vector through one hidden layer, for `user-embedding` and `vpl`."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal.baselines._descend import Batch, pick
from pal.baselines._features import Asked, Features
from pal.baselines._personal import PersonalModel
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.users import matched

__all__ = ["MLPModel", "RewardMLP"]

_PIECE = 1 << 16  # answers whose hidden layers are computed at once


class RewardMLP:
    """r(x, u) = a . relu(W phi(x) + V u + b).

    W phi is computed once an item and V u once a person; only the sum and what follows is an answer's.

    Args:
        m: length of phi.
        width: length of a person's vector.
        hidden: units.
        generator: of the initial values.
    """

    def __init__(self, m: int, width: int, hidden: int, generator: torch.Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.w = normal(m, hidden) / m**0.5
        self.v = normal(width, hidden) / width**0.5
        self.b = torch.zeros(hidden)
        self.a = normal(hidden) / hidden**0.5

    @property
    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        return [self.w, self.v, self.b, self.a]

    def rewards(self, items: Tensor, people: Tensor) -> Tensor:
        """(B,) of items (B, m) for people (B, width) or (width,)."""
        return torch.mv(torch.relu(items @ self.w + people @ self.v + self.b), self.a)

    def margin(self, asked: Asked | Batch, people: Tensor, question: Tensor, user: Tensor) -> Tensor:
        """Margins (B,) of answers to questions (B,) by users (B,), rows of people (U, width)."""
        items = asked.items @ self.w + self.b
        own = pick(people @ self.v, user)
        left, right = pick(items, asked.left[question]), pick(items, asked.right[question])
        return torch.mv(torch.relu(left + own) - torch.relu(right + own), self.a)

    def shared_margin(self, asked: Asked | Batch, person: Tensor) -> Tensor:
        """Margins (Q,) of all questions for one person (width,)."""
        rewards = self.rewards(asked.items, person)
        return pick(rewards, asked.left) - pick(rewards, asked.right)


class MLPModel(PersonalModel):
    """A shared reward MLP and a vector for each user; `default` is that of a person of whom nothing is known."""

    def __init__(self, features: Features, net: RewardMLP, ids: pl.Series, table: Tensor, default: Tensor) -> None:
        self.frame, self.features, self.net = features.frame, features, net
        self.ids, self.table, self.default = ids, table, default

    @property
    def user_ids(self) -> pl.Series:
        """(N,) ids of the users it knows."""
        return self.ids

    @abstractmethod
    def infer(self, few: EmbeddedComparisons) -> tuple[pl.Series, Tensor]:
        """Ids (U,) of the users in few and their vectors (U, width), the net frozen."""

    @abstractmethod
    def with_people(self, ids: pl.Series, table: Tensor) -> Self:
        """The same model with other users."""

    @torch.no_grad()
    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,); unseen users have the default vector."""
        asked = self.features.asked(data)
        people = torch.cat([self.table, self.default[None]])
        pieces = zip(torch.split(asked.question, _PIECE), torch.split(self.rows(data), _PIECE), strict=True)
        margin = [self.net.margin(asked, people, q, u) for q, u in pieces]
        return torch.sigmoid(torch.cat(margin)).clamp(1e-7, 1 - 1e-7).numpy()

    def with_answers(self, few: EmbeddedComparisons) -> Self:
        """A model that has learned the users in ``few`` too, the shared part frozen."""
        ids, table = self.infer(few)
        keep = torch.from_numpy(matched(self.ids, ids, "the new answers") < 0)
        kept = self.ids.filter(pl.Series(keep.numpy()))
        return self.with_people(pl.concat([kept.alias("id"), ids.alias("id")]), torch.cat([self.table[keep], table]))

    def _rewards(self, user: int | None, responses: Tensor, prompts: Tensor | None, weights: Any) -> Tensor:
        if weights is not None:
            raise InputError(f"{type(self).__name__} has no weights over prototypes: pass a user id")
        vector = self.default if user is None else self.table[user]
        return self.net.rewards(self.features(responses, prompts), vector)
