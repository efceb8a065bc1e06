"""Settings that cannot be used, refused in one line."""

import math
import os
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pal.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contents", "flag", "number", "one_of", "path_of", "tensor", "whole"]


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value as a plain int; refuses what is no whole number of at least ``least`` in 64 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) < 1 << 63:
        raise InputError(f"{name} must be a whole number of at least {least}, found {value!r}")
    return int(value)


def number(name: str, value: Any, least: float | None = None, below: float = math.inf) -> float:
    """The value as a plain float; refuses what is not from ``least`` (None: not positive) to under ``below``."""
    fits = not isinstance(value, bool) and isinstance(value, Real) and value < below
    if not fits or not (value > 0 if least is None else value >= least):
        wanted = "a positive number" if least is None else f"a number of at least {least:g}"
        end = "" if below == math.inf else f" and below {below:g}"
        raise InputError(f"{name} must be {wanted}{end}, found {value!r}")
    return float(value)


def one_of(name: str, value: Any, known: Collection[str | None]) -> None:
    """Refuses what is not among the known names."""
    if (value is not None and not isinstance(value, str)) or value not in known:
        listed = [repr(each) for each in known]
        raise InputError(f"{name}={value!r} is not known: use {', '.join(listed[:-1])} or {listed[-1]}")


def path_of(name: str, value: Any) -> Path:
    """The value as a path; refuses what is none."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} must be a path, found {value!r:.60}")
    return Path(value)


def flag(name: str, value: Any) -> None:
    """Refuses what is not True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, found {value!r}")


def contents(name: str, given: Any) -> list[Any]:
    """What was shown, texts or images, one by one; raises where it is no list of them or one is empty."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        found = "one text" if isinstance(given, str | bytes) else f"{given!r:.60}"
        raise InputError(f"{name} must be a list of texts, or embeddings (n, D); found {found}")
    shown = list(given)
    for row, content in enumerate(shown):
        if content is None or (isinstance(content, str) and not content):
            raise InputError(f"{name}: item {row} is empty: give what was shown")
    return shown


def tensor(name: str, given: Any) -> "Tensor":
    """The numbers of a tensor, an array or a list as a tensor; refuses what holds anything else."""
    import torch  # here: tables of comparisons need none of it

    try:
        x = given if isinstance(given, torch.Tensor) else torch.from_numpy(np.array(given))
        if x.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which torch can hardly use
            return x.long()
        if x.is_complex():
            raise TypeError
        return x
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers: a tensor, an array or a list; found {given!r:.60}") from None
