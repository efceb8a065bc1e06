"""A search along one setting, from which the loss falls and then rises."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from pal.errors import InputError

__all__ = ["while_better"]


class Tried(Protocol):
    """What a setting came to."""

    @property
    def loss(self) -> float:
        """On validation."""


T = TypeVar("T", bound=Tried)


def while_better(tries: Iterable[T], solved: float = 0.0, patience: int = 1) -> T:
    """The first try of the least loss; ones that are worse than the best end the search, and so does a solved one.

    Args:
        tries: made as they are asked for.
        solved: a loss below which nothing is left to choose by.
        patience: so many in a row end it.

    Raises:
        InputError: there are no tries.
    """
    best: T | None = None
    worse = 0
    for each in tries:
        if best is None or each.loss < best.loss:
            best, worse = each, 0
        elif each.loss != best.loss:  # worse, or no number
            worse += 1
        if worse == patience or each.loss < solved:
            break
    if best is None:
        raise InputError("there is nothing to choose from")
    return best
