"""How many threads torch may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["at_most"]


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """At most so many of torch's threads, at least one: what is short is done before more of them are awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, threads)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
