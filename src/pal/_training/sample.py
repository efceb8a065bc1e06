"""A sample of users, for what need not be learned from all of their answers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pal._training.tables import Tables
from pal.questions import Answers

if TYPE_CHECKING:
    from pal._training.alone import Alone

__all__ = ["Sample"]

_SOME = 100_000  # answers of the users drawn
_PEOPLE = 100  # that there are at least, where most have as few answers as that asks for


@dataclass(frozen=True)
class Sample:
    """Some users: ``chosen`` (N,) of all, of whom ``rows`` are here, among ``n`` users here.

    A sample of a sample: ``rows`` and ``n`` are of those sampled.
    """

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
        few = counts[order].cumsum(0) <= _SOME
        few[0] = True
        chosen = torch.zeros(len(counts), dtype=torch.bool)
        chosen[order[few]] = True
        return cls(chosen, shards.own(chosen).nonzero().squeeze(1), len(tables.user_ids))

    def folds(self, n: int, shards: "Alone") -> Iterator[tuple[Tensor, "Sample"]]:
        """Which of those sampled here are in each of n parts, and a sample of the others (of one user: of this one)."""
        fold = torch.full((len(self.chosen),), -1)
        # at random, the same in every process: what people are may follow their order
        fold[self.chosen] = torch.randperm(int(self.chosen.sum()), generator=torch.Generator().manual_seed(0)) % n
        for part in range(n):
            others = self.chosen & (fold != part)
            others = others if bool(others.any()) else self.chosen
            rows = shards.own(others)[self.rows].nonzero().squeeze(1)
            yield shards.own(fold)[self.rows] == part, Sample(others, rows, len(self.rows))

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
