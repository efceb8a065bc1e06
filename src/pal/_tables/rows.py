"""Every cell of a table checked, every id given its row."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._tables.conversations import shared_messages, texts_of
from pal._tables.layout import Layout, Source, find_layout, show
from pal.errors import InputError

__all__ = ["PARTS", "Items", "Table", "read_tables"]

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

PARTS = ("train", "validation", "test", "unseen")
_WORDS = {"left": 1.0, "right": 0.0, "tie": 0.5, "true": 1.0, "false": 0.0}


@dataclass(frozen=True, eq=False)
class Items:
    """Unique responses, or prompts: one row an item, found by id.

    Attributes:
        ids: (n,) strings, unique, none empty. A text is its own id; an image is found by its path as
            written, or by the sha256 (hex) of its bytes.
        contents: (n,) strings (texts, or paths of images) or bytes (images); None where the table
            holds ids alone and the vectors come from outside.
        kind: "text", "image" or "id".
    """

    ids: pl.Series
    contents: pl.Series | None
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ("text", "image", "id"):
            raise InputError(f"kind of items must be 'text', 'image' or 'id', found {show(self.kind)}")
        if self.contents is not None and len(self.contents) != len(self.ids):
            raise InputError(f"{len(self.ids)} ids but {len(self.contents)} contents: give each id its own")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.integer]) -> "Items":
        """The items at these rows (m,), in their order."""
        contents = None if self.contents is None else self.contents.gather(rows)
        return Items(self.ids.gather(rows), contents, self.kind)


@dataclass(frozen=True, eq=False)
class Table:
    """What was read; the fields are those of `Comparisons`."""

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


def read_tables(sources: Sequence[Source], images: bool = False) -> Table:
    """Reads and checks tables of one form, one after the other; rows keep their order.

    Args:
        sources: Tables to read.
        images: Responses given as strings are paths of images.

    Raises:
        InputError: A table or a cell that cannot be used: where, what was found, what to do.

    Warns:
        UserWarning: Users whose answers are all ties.
    """
    layouts = [find_layout(source, images) for source in sources]
    for source, layout in zip(sources[1:], layouts[1:], strict=True):
        _same_form(sources[0], layouts[0], source, layout)
    users, responses, prompts = _Interner(), _Interner(), _Interner()
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    passengers: dict[str, list[pl.Series]] = {}
    prompted: bool | None = None
    for source, layout in zip(sources, layouts, strict=True):
        offset = 0
        for frame in source.frames(layout.columns):
            if frame.height == 0:
                continue
            piece = _Piece(source, layout, frame, offset)
            found = {"user": users.rows(piece.users())[0]}
            left, right, prompt = piece.contents(prompted)
            prompted = prompt is not None
            found["left"], found["right"] = responses.rows(left, right)
            piece.refuse_equal(found["left"], found["right"], left)
            if prompt is not None:
                found["prompt"] = prompts.rows(prompt)[0]
            for name, values in {**found, **piece.numbers()}.items():
                columns.setdefault(name, []).append(values)
            for name, series in piece.passengers().items():
                passengers.setdefault(name, []).append(series)
            offset += frame.height
        if offset == 0:
            raise InputError(f"{source.name} has no rows; a table needs at least one comparison")
    rows = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
    carried = {name: pl.concat(series).alias(name) for name, series in passengers.items()}
    table = Table(
        user=rows["user"],
        left=rows["left"],
        right=rows["right"],
        prompt=rows.get("prompt"),
        label=rows["label"],
        weight=rows.get("weight"),
        timestamp=carried.get("timestamp"),
        assigned=carried.get("split"),
        user_ids=users.values("user_id"),
        responses=_items(responses.values("id"), layouts[0].kind, sources[0].folder),
        prompts=_items(prompts.values("id"), layouts[0].prompt_kind, None) if "prompt" in rows else None,
        sided=layouts[0].label is not None,
    )
    _warn_of_ties(table)
    return table


def _same_form(source: Source, layout: Layout, other: Source, found: Layout) -> None:
    for what, here, there in (
        ("columns", " ".join(layout.columns), " ".join(found.columns)),
        ("ids of users", layout.user_kind, found.user_kind),
        ("responses", layout.kind, found.kind),
        ("prompts", layout.prompt_kind, found.prompt_kind),
        ("timestamps", source.schema.get("timestamp"), other.schema.get("timestamp")),
    ):
        if here != there:
            raise InputError(
                f"{source.name} and {other.name} differ in their {what} ({here}; {there}): tables read "
                "together must have one form"
            )
    if layout.kind == "image" and source.folder != other.folder:
        raise InputError(f"{source.name} and {other.name}: tables of images read together must be in one folder")


def _items(values: pl.Series, kind: str, folder: Path | None) -> Items:
    if kind == "id":
        return Items(values, None, kind)
    if kind == "text":
        return Items(values, values, kind)
    if values.dtype == pl.Binary:
        digests = [hashlib.sha256(image).hexdigest() for image in values]
        return Items(pl.Series("id", digests, pl.String), values, kind)
    if folder is None:
        return Items(values, values, kind)
    found = [path if "://" in path else os.path.join(folder, path) for path in values]
    return Items(values, pl.Series("id", found, pl.String), kind)


def _warn_of_ties(table: Table) -> None:
    decided = np.zeros(len(table.user_ids), dtype=bool)
    decided[table.user[table.label != 0.5]] = True
    rows = np.flatnonzero(~decided)
    if not len(rows):
        return
    named = ", ".join(show(value, 40) for value in table.user_ids.gather(rows[:3]))
    who = f"user {named}" if len(rows) == 1 else f"{len(rows)} users ({named}{', ...' if len(rows) > 3 else ''})"
    # the caller of Comparisons.read and its kind
    warnings.warn(f"{who} gave nothing but ties: kept, but ties tell little of what they prefer", stacklevel=5)


class _Interner:
    """Gives each distinct value a row, in order of first appearance, piece after piece.

    Values are looked up by 64 bits of hash, which is many times as fast, and then compared once with what was found.
    """

    def __init__(self) -> None:
        self._known: pl.Series | None = None
        self._hashes, self._seed = pl.Series([], dtype=pl.UInt64), 0

    def rows(self, *columns: pl.Series) -> IntArray:
        """(columns, n) rows of values; new ones are met row by row, the first column before the second."""
        values = pl.concat(columns, rechunk=True)  # gathering from chunks is slow, and texts are not copied by this
        known = values.clear() if self._known is None else self._known
        hashes = values.hash(self._seed)
        rows = _find(hashes, self._hashes)
        new = np.flatnonzero(rows < 0)
        new = new[np.argsort(new % len(columns[0]), kind="stable")]
        late = hashes.gather(new)
        first = new[late.arg_unique().to_numpy()]
        fresh = hashes.gather(first)
        rows[new] = len(known) + _find(late, fresh)
        met = pl.concat([known, values.gather(first)], rechunk=True)
        if not (met.gather(rows) == values).all():  # two values with one hash: another seed tells them apart
            self._seed += 1
            self._hashes = known.hash(self._seed)
            return self.rows(*columns)
        self._known, self._hashes = met, pl.concat([self._hashes, fresh])
        return rows.reshape(len(columns), -1)

    def values(self, name: str) -> pl.Series:
        return pl.Series(name, [], pl.String) if self._known is None else self._known.alias(name)


def _find(hashes: pl.Series, known: pl.Series) -> IntArray:
    """(n,) rows of hashes among known ones, unique; -1 where they are not there."""
    table = known.to_frame("hash").lazy().with_row_index("row")
    places = hashes.to_frame("hash").lazy().with_row_index("place")
    # streaming, in any order: half the time of a join that keeps the order
    found = places.join(table, on="hash").select("place", "row").collect(engine="streaming")
    rows = np.full(len(hashes), -1, dtype=np.int32)
    rows[found["place"].to_numpy()] = found["row"].to_numpy()
    return rows


class _Piece:
    """Some rows of one table, checked column by column."""

    def __init__(self, source: Source, layout: Layout, frame: pl.DataFrame, offset: int) -> None:
        self.source, self.layout, self.frame, self.offset = source, layout, frame, offset

    def _refuse(self, column: str, bad: pl.Series, problem: str) -> None:
        """Raises for the first row where `bad` is true or null; `{}` in the problem is its value."""
        if bad.fill_null(True).any():
            row = int(bad.fill_null(True).arg_true()[0])
            found = show(self.frame[column][row])
            raise self.source.error(self.offset + row, column, problem.replace("{}", found))

    def _refuse_empty(self, column: str, values: pl.Series, remedy: str) -> None:
        self._refuse(column, values.is_null(), f"is empty; {remedy}")
        if values.dtype in (pl.String, pl.Binary):
            lengths = values.str.len_bytes() if values.dtype == pl.String else values.bin.size()
            self._refuse(column, lengths == 0, f"is empty; {remedy}")

    def users(self) -> pl.Series:
        """(n,) ids, Int64 or String."""
        values = self.frame["user_id"]
        if values.dtype.is_float():  # as integers become in pandas where some are missing
            values = values.fill_nan(None)
        self._refuse_empty("user_id", values, "every row needs the id of who answered")
        if values.dtype.is_float():
            self._refuse("user_id", values.is_not_null(), "{} is not an id; cast ids to integers or strings")
        if self.layout.user_kind == "strings":
            return values.cast(pl.String)
        ids = values.cast(pl.Int64, strict=False)
        self._refuse("user_id", ids.is_null(), "{} does not fit into 64 bits; write such ids as strings")
        return ids

    def contents(self, prompted: bool | None) -> tuple[pl.Series, pl.Series, pl.Series | None]:
        """Left, right and prompt (n,).

        Args:
            prompted: Whether the rows before had prompts, None at the first.
        """
        layout = self.layout
        left, right = self.frame[layout.left], self.frame[layout.right]
        prompt = None if layout.prompt is None else self.frame[layout.prompt]
        texts = None if prompt is None else self._text(str(layout.prompt), prompt, layout.prompt_kind)
        if layout.conversations and (prompt is None or not isinstance(prompt.dtype, pl.List)):
            left, right, shared = self._without_shared(left, right)
            begun = shared.list.len() > 0
            if texts is None:
                prompted = bool(begun[0]) if prompted is None else prompted
                found = "does not begin" if prompted else "begins"
                self._refuse(
                    layout.left,
                    begun != prompted,
                    f"{found} with the same message as '{layout.right}', unlike the rows before: these "
                    "shared messages are the prompt; write prompts into a column 'prompt'",
                )
                texts = texts_of(shared) if prompted else None
            elif layout.prompt_kind == "text":
                texts = texts_of(shared).zip_with(begun, texts)
        return self._text(layout.left, left, layout.kind), self._text(layout.right, right, layout.kind), texts

    def _without_shared(self, left: pl.Series, right: pl.Series) -> tuple[pl.Series, pl.Series, pl.Series]:
        for column, values in ((self.layout.left, left), (self.layout.right, right)):
            self._refuse(column, ~(values.list.len() > 0), "is empty; drop the row, or write what was shown")
        frame = pl.DataFrame({"left": left, "right": right, "count": shared_messages(left, right)})
        count = pl.col("count")
        parts = frame.select(
            left=pl.col("left").list.slice(count),
            right=pl.col("right").list.slice(count),
            shared=pl.col("left").list.head(count),
        )
        return parts["left"], parts["right"], parts["shared"]

    def _text(self, column: str, values: pl.Series, kind: str) -> pl.Series:
        """(n,) strings or, of images, bytes."""
        remedy = "every row needs an id here" if kind == "id" else "drop the row, or write what was shown"
        if isinstance(values.dtype, pl.Struct):
            inside, path = values.struct.field("bytes"), values.struct.field("path")
            values = path if inside.null_count() == len(inside) else inside
        elif isinstance(values.dtype, pl.List):
            self._refuse(column, ~(values.list.len() > 0), f"is empty; {remedy}")
            values = texts_of(values)
            self._refuse(column, values.is_null(), "a message lacks its 'role' or 'content' in {}; write both")
        elif values.dtype != pl.Binary:
            values = values.cast(pl.String)
        self._refuse_empty(column, values, remedy)
        return values

    def refuse_equal(self, left: IntArray, right: IntArray, texts: pl.Series) -> None:
        """Raises where the responses are the same; `texts` are the left ones."""
        equal = np.flatnonzero(left == right)
        if len(equal):
            row = int(equal[0])
            problem = f"the same as '{self.layout.left}', {show(texts[row])}; a comparison needs two, drop the row"
            raise self.source.error(self.offset + row, self.layout.right, problem)

    def numbers(self) -> dict[str, FloatArray]:
        """Labels (n,) and, where there are some, weights (n,)."""
        label, weight = self.layout.label, self.layout.weight
        found = {"label": np.ones(self.frame.height, np.float32) if label is None else self._labels(label)}
        return found if weight is None else {**found, "weight": self._weights(weight)}

    def _labels(self, column: str) -> FloatArray:
        values = self.frame[column]
        remedy = "write left, right or tie, or a number from 0 (right) to 1 (left)"
        self._refuse_empty(column, values, remedy)
        numbers = _numbers(values, _WORDS)
        self._refuse(column, numbers.is_null() | numbers.is_nan(), f"{{}} is not a label; {remedy}")
        if numbers.min() == -1 and numbers.max() == 1:
            remedy = "if -1 means right, write 0"
        self._refuse(column, (numbers < 0) | (numbers > 1), f"{{}} is outside 0 to 1; {remedy}")
        return numbers.to_numpy().astype(np.float32)

    def _weights(self, column: str) -> FloatArray:
        values = self.frame[column]
        remedy = "a weight is a positive number; drop the row if it should not count"
        self._refuse_empty(column, values, remedy)
        numbers = _numbers(values, {}).cast(pl.Float32)
        self._refuse(column, ~((numbers > 0) & numbers.is_finite()), f"{{}} cannot weigh; {remedy}")
        return numbers.to_numpy()

    def passengers(self) -> dict[str, pl.Series]:
        """Timestamps and parts (n,), where there are some."""
        found = {}
        if self.layout.timestamp:
            found["timestamp"] = self.frame[self.layout.timestamp]
        if self.layout.split:
            found["split"] = self.frame[self.layout.split].cast(pl.String, strict=False)
            problem = f"{{}} is not a part; write {', '.join(PARTS[:-1])} or {PARTS[-1]}"
            self._refuse("split", ~found["split"].is_in(PARTS), problem)
        return found


def _numbers(values: pl.Series, words: dict[str, float]) -> pl.Series:
    """Float64, null where a value is neither a number nor one of the words."""
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return values.cast(pl.Float64)
    values = values.cast(pl.String, strict=False)
    distinct = values.unique()
    numbers = [_number(text.strip().lower(), words) for text in distinct]
    return values.replace_strict(distinct, pl.Series(numbers, dtype=pl.Float64))


def _number(text: str, words: dict[str, float]) -> float | None:
    try:
        return words[text] if text in words else float(text)
    except ValueError:
        return None
