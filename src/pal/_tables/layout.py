"""Which columns of a table hold what, in every accepted form."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pal.errors import InputError

__all__ = ["KNOWN", "Layout", "Source", "find_layout", "show"]

_PAIRS = (("chosen", "rejected"), ("left", "right"), ("chosen_id", "rejected_id"), ("left_id", "right_id"))
_OPTIONAL = ("label", "prompt", "prompt_id", "weight", "timestamp", "split")
KNOWN = ("user_id", *(name for pair in _PAIRS for name in pair), *_OPTIONAL)
_USER_NAMES = (
    "user",
    "userid",
    "annotator",
    "annotator_id",
    "worker",
    "worker_id",
    "participant_id",
    "rater_id",
)


def show(value: object, limit: int = 60) -> str:
    """A value as an error shows it: its repr, cut to `limit` characters."""
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


@dataclass(frozen=True)
class Source:
    """One table to read, in pieces.

    Attributes:
        name: How errors call it: the path as given, or "the table".
        schema: Its columns.
        frames: Called with names of columns, yields frames with these columns in the order of the rows.
        line: From a row (from 0) to the line of the file (from 1), or None where lines mean nothing.
        folder: Relative paths of images start here; None for the working folder.
        hint: More to say where a column is missing.
    """

    name: str
    schema: pl.Schema
    frames: Callable[[list[str]], Iterator[pl.DataFrame]]
    line: Callable[[int], int | None] = lambda _: None
    folder: Path | None = None
    hint: str = ""

    def error(self, row: int, column: str, problem: str) -> InputError:
        """The error for one cell; rows count from 0 here and from 1 in the text."""
        line = self.line(row)
        where = f"row {row + 1}" if line is None else f"row {row + 1} (line {line})"
        return InputError(f"{self.name}, {where}, column '{column}': {problem}")


@dataclass(frozen=True)
class Layout:
    """Names of the columns, None for those the table does not have; kinds are "text", "image" or "id"."""

    left: str
    right: str
    label: str | None
    prompt: str | None
    weight: str | None
    timestamp: str | None
    split: str | None
    user_kind: str  # "strings" or "integers"
    kind: str
    prompt_kind: str
    conversations: bool  # both responses are lists of messages

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        names = (self.left, self.right, self.label, self.prompt, self.weight, self.timestamp, self.split)
        return ["user_id", *(name for name in names if name is not None)]


def find_layout(source: Source, images: bool = False) -> Layout:
    """Finds the columns of one of the accepted forms.

    Raises:
        InputError: A column is missing, two forms are mixed, or a column has a type that cannot be used.
    """
    # writers leave a column of nulls alone for an optional column that nobody filled
    columns = [name for name, dtype in source.schema.items() if dtype != pl.Null or name == "user_id"]
    if "user_id" not in columns:
        raise _missing(source, "user_id", columns)
    left, right = _responses(source, columns)
    sided = left.startswith("left")
    if sided and "label" not in columns:
        raise _missing(source, "label", columns)
    if not sided and "label" in columns:
        ids = "_id" if left.endswith("_id") else ""
        raise InputError(
            f"{source.name} has '{left}' and 'label': drop 'label', or, if it says which is preferred, rename"
            f" '{left}' to 'left{ids}' and '{right}' to 'right{ids}'"
        )
    conversations = isinstance(source.schema[left], pl.List) and isinstance(source.schema[right], pl.List)
    if left.endswith("_id"):
        prompts = ["prompt_id", "prompt"]
    else:
        prompts = ["prompt"] if conversations else ["prompt", "prompt_id"]
    prompt = next((name for name in prompts if name in columns), None)
    kind, right_kind = _kind(source, left, images), _kind(source, right, images)
    if kind != right_kind:
        raise InputError(f"{source.name}: '{left}' holds {kind}s, '{right}' {right_kind}s: both must be of one kind")
    for name in ("label", "weight", "split"):
        if name in columns and source.schema[name].is_nested():
            raise InputError(f"{source.name}, column '{name}': one value a row is needed, found {source.schema[name]}")
    weight, timestamp, split = (name if name in columns else None for name in ("weight", "timestamp", "split"))
    return Layout(
        left=left,
        right=right,
        label="label" if sided else None,
        prompt=prompt,
        weight=weight,
        timestamp=timestamp,
        split=split,
        user_kind=_user_kind(source),
        kind=kind,
        prompt_kind=_kind(source, prompt, False) if prompt else "text",
        conversations=conversations,
    )


def _responses(source: Source, columns: Sequence[str]) -> tuple[str, str]:
    pairs = [pair for pair in _PAIRS if pair[0] in columns and pair[1] in columns]
    # a table that has texts and ids of them is read by its texts
    pairs = [pair for pair in pairs if not pair[0].endswith("_id")] or pairs
    if len(pairs) > 1:
        one, other = (f"'{a}', '{b}'" for a, b in pairs)
        raise InputError(f"{source.name} has both {one} and {other}: keep one of the two pairs of columns")
    # half a pair beside a whole one: which of them was meant cannot be known
    stray = [name for pair in _PAIRS for name in pair if name in columns and not name.endswith("_id")]
    if pairs and not pairs[0][0].endswith("_id") and (odd := [name for name in stray if name not in pairs[0]]):
        one, other = pairs[0]
        raise InputError(f"{source.name} has '{one}', '{other}' and '{odd[0]}': drop '{odd[0]}', or rename it")
    if pairs:
        return pairs[0]
    halves = [b if a in columns else a for a, b in _PAIRS if a in columns or b in columns]
    names = [name for pair in _PAIRS for name in pair]
    similar = [name for name in names if difflib.get_close_matches(name, columns, 1, 0.8)]
    raise _missing(source, (halves + similar + ["chosen"])[0], columns)


def _user_kind(source: Source) -> str:
    dtype = source.schema["user_id"]
    if dtype.is_integer():
        return "integers"
    if is_text(dtype) or dtype.is_float() or dtype == pl.Null:  # the last two are refused with their row
        return "strings"
    raise InputError(
        f"{source.name}, column 'user_id': ids must be strings or integers, found {dtype}; cast the column"
    )


def _kind(source: Source, name: str, images: bool) -> str:
    dtype = source.schema[name]
    at = f"{source.name}, column '{name}'"
    if name.endswith("_id"):
        if dtype.is_integer() or is_text(dtype):
            return "id"
        raise InputError(f"{at}: ids must be strings or integers, found {dtype}; cast the column")
    if is_text(dtype):
        return "image" if images else "text"
    if dtype == pl.Binary or (isinstance(dtype, pl.Struct) and {"bytes", "path"} <= {f.name for f in dtype.fields}):
        return "image"
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        fields = {f.name: f.dtype for f in inner.fields} if isinstance(inner, pl.Struct) else {}
        if inner == pl.Null or (is_text(fields.get("role")) and is_text(fields.get("content"))):
            return "text"
        found = show(dtype, 120)
        raise InputError(f"{at}: a list must hold messages with text as 'role' and 'content', found {found}")
    remedy = f"; numbers that are ids belong into '{name}_id'" if dtype.is_integer() else ""
    raise InputError(f"{at}: text, conversations or images are needed, found {dtype}{remedy}")


def is_text(dtype: object) -> bool:
    """Whether values of a column are strings."""
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _missing(source: Source, name: str, columns: Sequence[str]) -> InputError:
    unknown = {column.strip().lower().replace(" ", "_").replace("-", "_"): column for column in columns}
    unknown = {key: column for key, column in unknown.items() if column not in KNOWN}
    aliases = [name, *(_USER_NAMES if name == "user_id" else ())]
    close = [unknown[key] for key in aliases if key in unknown]
    close += [unknown[key] for key in difflib.get_close_matches(name, unknown, 1, 0.7)]
    listed = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
    remedy = f"add '{name}'"
    if close:
        remedy = f"did you mean '{close[0]}'? rename it to '{name}'"
    elif name == "chosen":
        remedy = "a table needs user_id and either chosen and rejected or left, right and label"
    return InputError(f"{source.name}: no column '{name}' among {listed or 'none'}; {remedy}{source.hint}")
