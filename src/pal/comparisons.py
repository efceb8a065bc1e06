"""Comparisons: who preferred which of two responses, checked once and kept as rows of id tables."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from pal import _splits, _tables
from pal._checks import path_of
from pal._splits import Leakage, Parts
from pal._tables import Items, Source
from pal.errors import InputError

__all__ = ["Comparisons", "Items", "Leakage", "Parts", "Rows", "split_rows"]

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Rows = npt.NDArray[np.integer] | npt.NDArray[np.bool_] | Sequence[int] | Sequence[bool] | slice


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Answers of people, one row each, in the order of their source.

    The tables of users, responses and prompts are shared by everything cut from one source, so that rows of
    two parts speak of the same things; `compact` drops what is not used.

    Attributes:
        user: (n,) rows of `user_ids`.
        left: (n,) rows of `responses`.
        right: (n,) rows of `responses`.
        prompt: (n,) rows of `prompts`, or None.
        label: (n,) P(left preferred) as answered: 1 left, 0 right, 0.5 tie.
        weight: (n,) positive, or None: all count the same.
        timestamp: (n,) as in the source, or None.
        assigned: (n,) part each row was given by a column `split`, or None.
        user_ids: (U,) String or Int64, unique.
        responses: R items.
        prompts: P items, or None.
        sided: Whether left and right are places on a screen. False where rows came as chosen and rejected:
            the side then says nothing.
    """

    user: IntArray
    left: IntArray
    right: IntArray
    prompt: IntArray | None
    label: FloatArray
    weight: FloatArray | None
    timestamp: pl.Series | None
    assigned: pl.Series | None
    user_ids: pl.Series
    responses: Items
    prompts: Items | None
    sided: bool

    def __post_init__(self) -> None:
        for name in ("left", "right", "prompt", "label", "weight", "timestamp", "assigned"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.user):
                raise InputError(f"'{name}' has {len(values)} rows, 'user' {len(self.user)}: give every row both")
        if (self.prompt is None) != (self.prompts is None):
            raise InputError("'prompt' holds rows of 'prompts': give both or neither")

    @classmethod
    def read(cls, path: str | Path | Sequence[str | Path], *, images: bool = False) -> Self:
        """Reads a parquet, jsonl or csv file, or several of one form as one table.

        Args:
            path: File or files. In csv, which has no types, ids are strings.
            images: The responses are paths of images, relative ones from the folder of the file.

        Raises:
            InputError: A file or a cell that cannot be used: where, what was found, what to do.

        Warns:
            UserWarning: Users whose answers are all ties.
        """
        if not isinstance(path, str | os.PathLike | Iterable):
            raise InputError(f"path must be a path or a list of them, found {path!r:.60}")
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        if not paths:
            raise InputError("no files to read: name at least one")
        return cls._from_sources([_tables.from_file(file) for file in paths], images)

    @classmethod
    def from_frame(cls, frame: Any, *, images: bool = False) -> Self:
        """Takes a polars (eager or lazy) or pandas frame with the columns of a file; raises as `read`."""
        return cls._from_sources([_tables.from_frame(frame)], images)

    @classmethod
    def from_huggingface(cls, dataset: Any, *, images: bool = False) -> Self:
        """Takes a `datasets.Dataset` with the columns of a file; raises as `read`."""
        return cls._from_sources([_tables.from_dataset(dataset)], images)

    @classmethod
    def from_columns(
        cls,
        *,
        user_id: Any,
        left: Any = None,
        right: Any = None,
        label: Any = None,
        chosen: Any = None,
        rejected: Any = None,
        prompt: Any = None,
        left_id: Any = None,
        right_id: Any = None,
        chosen_id: Any = None,
        rejected_id: Any = None,
        prompt_id: Any = None,
        weight: Any = None,
        timestamp: Any = None,
        split: Any = None,
        images: bool = False,
    ) -> Self:
        """Takes columns (n,), sequences, arrays or series, named as in a file; raises as `read`."""
        columns = {name: value for name, value in locals().items() if name not in ("cls", "images")}
        return cls._from_sources([_tables.from_columns(columns)], images)

    @classmethod
    def _from_sources(cls, sources: Sequence[Source], images: bool) -> Self:
        table = _tables.read_tables(sources, images)
        return cls(**{field.name: getattr(table, field.name) for field in fields(table)})

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        prompts = "" if self.prompts is None else f", {len(self.prompts)} prompts"
        return f"Comparisons({len(self)} rows, {self.n_users} users, {len(self.responses)} responses{prompts})"

    @property
    def n_users(self) -> int:
        """Users with a row here; `len(user_ids)` also counts those whose rows are elsewhere."""
        return int(np.count_nonzero(self.user_counts()))

    def user_counts(self) -> npt.NDArray[np.int64]:
        """(U,) rows of each user."""
        return np.bincount(self.user, minlength=len(self.user_ids))

    def take(self, rows: Rows) -> "Comparisons":
        """The comparisons at these rows, in their order; the id tables are shared, not copied.

        Args:
            rows: (m,) rows from 0 (negative ones from the end), a mask (n,), or a slice.
        """
        index = self._index(rows)

        def cut(values: Any) -> Any:
            return None if values is None else values[index]

        return replace(
            self,
            user=self.user[index],
            left=self.left[index],
            right=self.right[index],
            prompt=cut(self.prompt),
            label=self.label[index],
            weight=cut(self.weight),
            timestamp=None if self.timestamp is None else self.timestamp.gather(index),
            assigned=None if self.assigned is None else self.assigned.gather(index),
        )

    def _index(self, rows: Rows) -> npt.NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(len(self))[rows]
        index = np.asarray(rows)
        if index.size == 0:
            return np.zeros(0, dtype=np.int64)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise InputError(f"a mask must have one value a row, ({len(self)},); found {index.shape}")
            return np.flatnonzero(index)
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise InputError(f"rows must be integers (m,) or a mask, found {index.dtype} of shape {index.shape}")
        low, high = int(index.min()), int(index.max())
        if low < -len(self) or high >= len(self):
            raise InputError(f"row {high if high >= len(self) else low} asked for, but there are {len(self)} rows")
        return np.where(index < 0, index + len(self), index).astype(np.int64)

    def compact(self) -> "Comparisons":
        """The same comparisons with tables of only the users and items they use, in the old order."""
        users, user = _used(len(self.user_ids), self.user)
        responses, left, right = _used(len(self.responses), self.left, self.right)
        prompts, prompt = self.prompts, self.prompt
        if prompts is not None and prompt is not None:
            kept, prompt = _used(len(prompts), prompt)
            prompts = prompts.take(kept)
        return replace(
            self,
            user=user,
            left=left,
            right=right,
            prompt=prompt,
            user_ids=self.user_ids.gather(users),
            responses=self.responses.take(responses),
            prompts=prompts,
        )

    def swapped(self, mask: npt.NDArray[np.bool_]) -> "Comparisons":
        """The same answers with the sides of some rows changed: left <-> right, label -> 1 - label.

        Args:
            mask: (n,) rows to change.
        """
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (len(self),):
            raise InputError(f"a mask must be bool ({len(self)},); found {mask.dtype} {mask.shape}")
        label = np.where(mask, 1 - self.label, self.label)
        left = np.where(mask, self.right, self.left)
        return replace(self, left=left, right=np.where(mask, self.left, self.right), label=label)

    def with_prompt_ignored(self) -> "Comparisons":
        """The same comparisons without their prompts."""
        return replace(self, prompt=None, prompts=None)

    def joined(self) -> "Comparisons":
        """Joint texts: each response becomes prompt, empty line, response; prompts are kept, for splits.

        Raises:
            InputError: There are no prompts, or something here is not text.
        """
        if self.prompts is None or self.prompt is None:
            raise InputError("joint texts need prompts: these comparisons have none")
        texts = (self.prompts.contents, self.responses.contents)
        if texts[0] is None or texts[1] is None or {self.prompts.kind, self.responses.kind} != {"text"}:
            raise InputError(
                f"joint texts need texts: here prompts are of kind '{self.prompts.kind}', responses "
                f"of kind '{self.responses.kind}'"
            )
        prompt, response = np.tile(self.prompt, 2), np.concatenate([self.left, self.right])
        key = prompt.astype(np.int64) * len(self.responses) + response
        distinct, row = np.unique(key, return_inverse=True)
        joint = pl.select(
            pl.concat_str(
                texts[0].gather(distinct // len(self.responses)),
                texts[1].gather(distinct % len(self.responses)),
                separator="\n\n",
            )
        ).to_series()
        ids = joint.unique(maintain_order=True).alias("id")
        rows = _rows_of(joint, ids)[row]
        return replace(self, left=rows[: len(self)], right=rows[len(self) :], responses=Items(ids, ids, "text"))

    def to_frame(self) -> pl.DataFrame:
        """A frame with the columns of a file; `from_frame` makes the same comparisons of it."""
        return self._frame(None)

    def _frame(self, folder: Path | None) -> pl.DataFrame:
        ids = "_id" if self.responses.kind == "id" else ""
        columns = {"user_id": self.user_ids.gather(self.user)}
        if self.prompts is not None and self.prompt is not None:
            name = "prompt_id" if self.prompts.kind == "id" else "prompt"
            columns[name] = _written(self.prompts, folder).gather(self.prompt)
        responses = _written(self.responses, folder)
        if self.sided:
            columns[f"left{ids}"] = responses.gather(self.left)
            columns[f"right{ids}"] = responses.gather(self.right)
            columns["label"] = pl.Series(self.label)
        else:
            first = self.label == 1
            columns[f"chosen{ids}"] = responses.gather(np.where(first, self.left, self.right))
            columns[f"rejected{ids}"] = responses.gather(np.where(first, self.right, self.left))
        for name, values in (
            ("weight", self.weight),
            ("timestamp", self.timestamp),
            ("split", self.assigned),
        ):
            if values is not None:
                columns[name] = pl.Series(values)
        return pl.DataFrame([values.alias(name) for name, values in columns.items()])

    def write(self, path: str | Path) -> None:
        """Writes parquet, jsonl or csv by the ending of the path; the file appears whole or not at all.

        Relative paths of images are written as they are seen from the folder of the file.

        Raises:
            InputError: An unknown ending, no such folder, or images given as bytes in a format for text.
        """
        path = path_of("path", path)
        _tables.write_frame(self._frame(path.parent), path)

    def split(
        self,
        unseen_users: float = 0.2,
        test: float = 0.1,
        validation: float = 0.1,
        by: str = "comparison",
        seed: int = 0,
    ) -> "Parts[Comparisons]":
        """Cuts into train, validation, test and unseen.

        Args:
            unseen_users: Share of the users whose rows all go to `unseen`.
            test: Share of each other user's rows for `test`.
            validation: Likewise for `validation`.
            by: What no two of train, validation and test share: "comparison" (one person asked one pair; rows of
                people who are asked the same more than twice on average are apart), "pair" (of responses to a prompt,
                whichever side), "prompt" or "item" (a response; rows between responses of two parts end in
                `left_out`). Or "assigned": the parts of the column `split`, nothing drawn.
            seed: The same seed gives the same parts.

        Returns:
            The parts. Each user with answers to at least as many pairs as there are parts has some in all of them:
            always by comparison, otherwise where the groups allow it.

        Raises:
            InputError: Shares that leave nothing, or a `by` that these comparisons do not allow.
        """
        rows = split_rows(self, unseen_users, test, validation, by, seed)
        return Parts(**{name: self.take(index) for name, index in rows.items()})


def split_rows(
    comparisons: Comparisons,
    unseen_users: float = 0.2,
    test: float = 0.1,
    validation: float = 0.1,
    by: str = "comparison",
    seed: int = 0,
) -> dict[str, npt.NDArray[np.int64]]:
    """The rows of each part, ascending; see `Comparisons.split`."""
    return _splits.choose_rows(comparisons, unseen_users, test, validation, by, seed)


def _used(count: int, *columns: IntArray) -> tuple[IntArray, ...]:
    """Rows that columns use, ascending, and the columns counted in these."""
    marks = np.zeros(count, dtype=bool)
    for column in columns:
        marks[column] = True
    place = np.cumsum(marks, dtype=np.int32) - 1
    return np.flatnonzero(marks).astype(np.int32), *(place[column].astype(np.int32, copy=False) for column in columns)


def _rows_of(values: pl.Series, ids: pl.Series) -> IntArray:
    table = ids.alias("id").to_frame().with_row_index("row")
    found = values.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")["row"]
    return found.cast(pl.Int32).to_numpy()


def _written(items: Items, folder: Path | None) -> pl.Series:
    """What a table holds of items: ids, texts, images, or their paths as seen from the folder."""
    if items.contents is None:
        return items.ids
    if items.kind == "image" and items.contents.dtype == pl.String and folder is not None:
        fixed = [os.path.isabs(path) or "://" in path for path in items.contents]
        paths = zip(items.contents, fixed, strict=True)
        return pl.Series([path if kept else os.path.relpath(path, folder) for path, kept in paths], dtype=pl.String)
    return items.contents
