"""A sample of users, for what need not be learned from all of their answers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pal._training.tables import Tables
from pal.questions import Answers
from pal.users import UserWeights

if TYPE_CHECKING:
    from pal._training.alone import Alone

__all__ = ["People", "Sample"]

_SOME = 100_000  # answers of the users drawn
_MOST = 20_000  # users
_PEOPLE = 100  # that there are at least, where most have as few answers as that asks for


class People(NamedTuple):
    """What is known of people, of all processes: ``weights`` (S, K), and ``concentration`` (S,), how sure these are."""

    weights: Tensor
    concentration: Tensor

    def take(self, rows: Tensor) -> "People":
        """Some of them."""
        return People(self.weights[rows], self.concentration[rows])


@dataclass(frozen=True)
class Sample:
    """Some users: ``chosen`` (N,) of all, of whom ``rows`` are here, among ``n`` users here."""

    chosen: Tensor
    rows: Tensor
    n: int

    @classmethod
    def of_users(cls, tables: Tables, shards: "Alone") -> "Sample":
        """Users who together have no more than enough training answers."""
        counts = shards.of_all(tables.counts.cpu())
        order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(0))
        # nobody whose answers would leave no room for others
        order = order[(counts <= max(_SOME / _PEOPLE, float(counts.median())))[order]]
        order = order[:_MOST]
        few = counts[order].cumsum(0) <= _SOME
        few[0] = True
        chosen = torch.zeros(len(counts), dtype=torch.bool)
        chosen[order[few]] = True
        return cls(chosen, shards.own(chosen).nonzero().squeeze(1), len(tables.user_ids))

    def folds(self, n: int, shards: "Alone") -> Iterator[tuple[Tensor, Tensor]]:
        """Of each of n parts, which of those sampled here are in it, and the rows, of all sampled, of the others.

        Of one user: of this one.
        """
        # at random, the same in every process: what people are may follow their order
        fold = torch.randperm(int(self.chosen.sum()), generator=torch.Generator().manual_seed(0)) % n
        of_all = torch.full((len(self.chosen),), -1)
        of_all[self.chosen] = fold
        for part in range(n):
            others = (fold != part).nonzero().squeeze(1)
            yield shards.own(of_all)[self.rows] == part, others if len(others) else torch.arange(len(fold))

    def people(self, users: UserWeights, shards: "Alone") -> People:
        """All of them; ``users`` are those here."""
        place, n = shards.own(self.chosen.cumsum(0) - 1)[self.rows], int(self.chosen.sum())
        weights, concentration = torch.empty(n, users.weights.shape[1]), torch.empty(n)
        mine = (place, users.weights[self.rows], users.concentration[self.rows])
        for at, part, sure in shards.gathered(mine):
            weights[at], concentration[at] = part, sure
        return People(weights, concentration)

    def _place(self, answers: Answers) -> Tensor:
        place = torch.full((self.n + 1,), -1)
        place[self.rows] = torch.arange(len(self.rows))
        return place[answers.user]

    def taken(self, answers: Answers) -> Tensor:
        """Which answers are theirs, ascending."""
        return (self._place(answers) >= 0).nonzero().squeeze(1)

    def of(self, answers: Answers) -> Answers:
        """Their answers; users are counted in `rows`."""
        part = answers.take(self.taken(answers))
        return replace(part, user=self._place(part))
