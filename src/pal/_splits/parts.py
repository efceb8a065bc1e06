"""The parts of a split, and what they share."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._splits.choice import Answers
from pal.errors import InputError

__all__ = ["Leakage", "Parts"]

T = TypeVar("T")
Rows = npt.NDArray[np.unsignedinteger]


class _Holder(Protocol):
    @property
    def comparisons(self) -> Answers: ...


@dataclass(frozen=True, eq=False)
class Parts(Generic[T]):
    """A split; T is `Comparisons` or what holds them as `.comparisons`.

    Attributes:
        train: Rows of seen users to learn from.
        validation: Rows of seen users to choose with.
        test: Rows of seen users to measure on.
        unseen: All rows of unseen users.
        left_out: Rows that would tie two parts together; empty unless split by item.
    """

    train: T
    validation: T
    test: T
    unseen: T
    left_out: T

    def leakage(self) -> "Leakage":
        """What each two of train, validation, test and unseen share, users and items matched by id."""
        names = ("train", "validation", "test", "unseen")
        parts = [getattr(self, name) for name in names]
        answers: list[Answers] = [getattr(part, "comparisons", part) for part in parts]
        views = _views(answers)
        rows = [
            {"part_a": a, "part_b": b, "what": what, "shared": shared, "share": share}
            for (a, one), (b, other) in itertools.combinations(zip(names, views, strict=True), 2)
            for what, shared, share in _shared(one, other)
        ]
        schema = {
            "part_a": pl.String,
            "part_b": pl.String,
            "what": pl.String,
            "shared": pl.Int64,
            "share": pl.Float64,
        }
        return Leakage(pl.DataFrame(rows, schema=schema))


@dataclass(frozen=True, eq=False)
class Leakage:
    """What parts share.

    Attributes:
        table: One row for two parts and a kind of thing: part_a, part_b, what (user, prompt, item, pair,
            or comparison: one person asked one pair), shared (how many both parts hold) and share (of
            part_b's comparisons, those that hold one of them).
    """

    table: pl.DataFrame

    def shared(self, part_a: str, part_b: str, what: str) -> int:
        """How many of one kind two parts share, in either order.

        Raises:
            InputError: No such parts or kind.
        """
        either = pl.col("part_a").is_in([part_a, part_b]) & pl.col("part_b").is_in([part_a, part_b])
        found = self.table.filter(either & (pl.col("what") == what))["shared"]
        if len(found) != 1:
            raise InputError(f"no '{what}' of '{part_a}' and '{part_b}': see the columns of .table for what there is")
        return int(found[0])

    def __str__(self) -> str:
        lines = []
        for (a, b), rows in self.table.group_by("part_a", "part_b", maintain_order=True):
            found = [
                f"{row['shared']:,} {row['what']}{'s' * (row['shared'] != 1)} ({row['share']:.1%} of {b})"
                for row in rows.iter_rows(named=True)
                if row["shared"]
            ]
            lines.append(f"{a} and {b} share {', '.join(found) if found else 'nothing'}")
        return "\n".join(lines)


class _View:
    """One part, its rows counted in tables that all parts have in common.

    Attributes:
        columns: For users, prompts (if all parts have them) and items the columns (n,) that hold them.
        marks: Likewise which rows of the common table the part holds, bool.
        keys: For pairs and comparisons the distinct ones, and how many `rows` there are of each.
    """

    def __init__(self, columns: dict[str, list[Rows]], sizes: dict[str, int]) -> None:
        self.columns = columns
        self.marks = {what: np.zeros(sizes[what], dtype=bool) for what in columns}
        for what, values in columns.items():
            for column in values:
                self.marks[what][column] = True
        left, right = columns["item"]
        pair = {"low": np.minimum(left, right), "high": np.maximum(left, right)}
        pair |= {"prompt": columns["prompt"][0]} if "prompt" in columns else {}
        self.keys = {"pair": _counted(pair), "comparison": _counted({**pair, "user": columns["user"][0]})}


def _counted(columns: dict[str, Rows]) -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    return frame.group_by(frame.columns).agg(rows=pl.len())


def _views(answers: Sequence[Answers]) -> list[_View]:
    users, n_users = _common([part.user_ids for part in answers])
    items, n_items = _common([part.responses.ids for part in answers])
    tables = [part.prompts.ids for part in answers if part.prompts is not None]
    prompts, n_prompts = _common(tables) if len(tables) == len(answers) else ([], 0)
    views = []
    for place, part in enumerate(answers):
        columns = {"user": [users[place][part.user]]}
        if prompts and part.prompt is not None:
            columns["prompt"] = [prompts[place][part.prompt]]
        columns["item"] = [items[place][part.left], items[place][part.right]]
        views.append(_View(columns, {"user": n_users, "prompt": n_prompts, "item": n_items}))
    return views


def _common(tables: Sequence[pl.Series]) -> tuple[list[Rows], int]:
    """For each table of ids the rows of its ids in one table for all, and how many that has."""
    if all(table is tables[0] for table in tables):
        return [np.arange(len(tables[0]), dtype=np.uint32)] * len(tables), len(tables[0])
    if len({table.dtype for table in tables}) > 1:
        raise InputError("the parts have ids of different types, strings and integers: nothing can be compared")
    frames = [table.alias("id").to_frame() for table in tables]
    every = pl.concat(frames).unique(maintain_order=True).with_row_index("row")
    rows = [frame.join(every, on="id", how="left", maintain_order="left")["row"].to_numpy() for frame in frames]
    return rows, every.height


def _shared(one: _View, other: _View) -> Iterator[tuple[str, int, float]]:
    """For each kind of thing how many both hold, and the share of `other`'s rows that hold one."""
    n_rows = max(len(other.columns["user"][0]), 1)
    for what, columns in other.columns.items():
        held = one.marks[what]
        touched = np.logical_or.reduce([held[column] for column in columns])
        yield what, int(np.count_nonzero(held & other.marks[what])), float(np.count_nonzero(touched) / n_rows)
    for what, keys in other.keys.items():
        common = keys.join(one.keys[what], on=keys.columns[:-1], how="semi")
        yield what, common.height, float(common["rows"].sum() / n_rows)
