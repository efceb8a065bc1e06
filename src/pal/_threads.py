"""How many threads torch may use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["at_most"]

_lock = threading.Lock()
_within = 0  # how many are limited at the moment
_usual = 1  # threads before the first of them
_own = threading.local()


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """At most so many of torch's threads, at least one: what is short is done before more of them are awake.

    A thread that first meets torch while another is limited takes over its limit as if it were its own: what was
    before the first of them counts.
    """
    global _within, _usual
    outer = getattr(_own, "threads", None)
    with _lock:
        _usual = _usual if _within else torch.get_num_threads()
        _within += 1
        before = _usual if outer is None else outer
    _own.threads = max(1, min(before, threads))
    torch.set_num_threads(_own.threads)
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            torch.set_num_threads(before)
        _own.threads = outer
