"""What training asks of whoever holds the users: here one process holds them all, and nothing has to be said."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pal._progress import Report, steps
from pal._training.start import begin
from pal._training.tables import Tables
from pal.losses import sigmoid_slope
from pal.model import ModelConfig, RewardModel
from pal.prototypes import Prototypes
from pal.users import UserWeights

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
        return begin(tables, shape, start, generator, self)

    def over_rows(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What takes means over the distinct rows of x (m, D), of all processes."""
        del x
        return lambda values: values.mean(0)

    def features(self, tables: Tables, pooled: Prototypes) -> Tensor:
        """`Prototypes.features` of the training questions."""
        return pooled.features(tables.questions)

    def pooled(self, tables: Tables) -> Tables:
        """One training answer a question."""
        return tables.pooled()

    def noise(self, generator: torch.Generator) -> torch.Generator:
        """Where dropout draws from."""
        return generator

    def count(self, answers: int) -> int:
        """How many answers there are in all, of so many here."""
        return answers

    def rows(self, n: int, pooled: bool) -> tuple[int, Tensor | None]:
        """How many training answers (or, pooled, questions) there are, n of them here, and the row here of each.

        -1 where it is elsewhere; None: all are here, in this order.
        """
        del pooled
        return n, None

    def validation(self, n: int) -> tuple[int, Tensor]:
        """How many validation answers there are, and the place among them of each of the n here."""
        return n, torch.arange(n)

    # -- after the loop -----------------------------------------------------------------------------------------------

    def of_all(self, x: Tensor) -> Tensor:
        """What is known of all users (N, ...), of ``x`` (n, ...) of the users here."""
        return x

    def own(self, x: Tensor) -> Tensor:
        """Of what is known of all users (N, ...), that of the users here (n, ...)."""
        return x

    def among(self, rows: Tensor) -> tuple[Tensor, int]:
        """Where training answers here (ascending rows) stand among those of all processes, and how many these are."""
        return torch.arange(len(rows)), len(rows)

    def mean(self, x: Tensor) -> Tensor:
        """The mean (m,) of rows ``x`` (n, m), of all processes."""
        return x.mean(0)

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, in their order."""
        return [value]

    def slope(self, margin: Tensor, label: Tensor, start: float, weight: Tensor | None, sure: float = 1.0) -> float:
        """`sigmoid_slope` of the margins of all processes."""
        return sigmoid_slope(margin, label, start, weight, sure)

    def everyone(self, people: UserWeights) -> UserWeights:
        """All users, of those here."""
        return people

    # -- in a step ----------------------------------------------------------------------------------------------------

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

    def progress(self, title: str, show: bool) -> AbstractContextManager[Report]:
        """A function to report a step and the best validation loss to."""
        return steps(title, show)

    def found(self, path: Path) -> Path | None:
        """The checkpoint to go on from, if there is one."""
        return path if path.exists() else None

    @contextmanager
    def saving(self, path: Path, step: int) -> Iterator[Path]:
        """The file to write a checkpoint to."""
        del step
        yield path
