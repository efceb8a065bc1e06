"""What the loop asks of whoever holds the users: here one process holds them all, and nothing has to be said."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pal._training.start import begin
from pal._training.tables import Tables
from pal.model import ModelConfig, RewardModel
from pal.prototypes import Prototypes

__all__ = ["Alone"]


class Alone:
    """All users in one process. `pal._distributed.shards.Shards` holds some of them, and sums over all processes.

    Attributes:
        size: processes.
    """

    size = 1

    def begin(
        self, tables: Tables, shape: ModelConfig, start: RewardModel | None, generator: torch.Generator
    ) -> tuple[Prototypes, Tensor]:
        """The prototypes, and the logits (n, K) of the users here."""
        return begin(tables, shape, start, generator)

    def pooled(self, tables: Tables) -> Tables:
        """One training answer a question."""
        return tables.pooled()

    def noise(self, generator: torch.Generator) -> torch.Generator:
        """Where dropout draws from."""
        return generator

    def count(self, answers: int) -> int:
        """How many answers there are in all, of so many here."""
        return answers

    def rows(self, pooled: bool) -> tuple[int | None, Tensor | None]:
        """How many training answers (or, pooled, questions) there are, and the row here of each: -1 elsewhere."""
        del pooled
        return None, None

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes."""
        return x

    def reduce(self, params: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sums gradients, in place, and the loss."""
        del params
        return loss

    def agree(self, due: bool) -> bool:
        """What the first process says: clocks differ."""
        return due

    def found(self, path: Path) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        return path if path.exists() else None

    @contextmanager
    def saving(self, path: Path, step: int) -> Iterator[Path]:
        """The file to write a checkpoint to."""
        del step
        yield path
