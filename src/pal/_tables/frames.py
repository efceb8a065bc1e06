"""Tables in memory, opened as a `Source`: frames, data sets, plain columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pal._tables.layout import Source, show
from pal.errors import InputError

__all__ = ["from_columns", "from_dataset", "from_frame", "pieces"]

_TABLE = "the table"
_PIECE_ROWS = 1_000_000
_PIECE_BYTES = 2**28  # rows held at a time are bounded by what they weigh: texts can be long


def pieces(frame: pl.LazyFrame | pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Cuts a frame into pieces of bounded size, in order."""
    start, size = 0, _PIECE_ROWS // 20
    while start < rows:
        piece = frame.slice(start, size).lazy().collect()
        yield piece
        start += size
        per_row = max(piece.estimated_size() / max(piece.height, 1), 1)
        size = min(max(int(_PIECE_BYTES / per_row), 1), _PIECE_ROWS)


def from_frame(frame: Any) -> Source:
    """Opens a polars frame, eager or lazy, a pandas frame, or a table of Arrow.

    Raises:
        InputError: Something else, or columns that polars cannot hold.
    """
    if isinstance(frame, pl.LazyFrame):
        schema = frame.collect_schema()
        return Source(_TABLE, schema, lambda columns: _eager(frame.select(columns).collect()))
    if isinstance(frame, pl.DataFrame):
        return _source(frame)
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        names = [str(name) for name in frame.columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{_TABLE} has two columns '{twice}': rename or drop one of them")
        return from_columns({name: frame[column] for name, column in zip(names, frame.columns, strict=True)})
    if hasattr(frame, "__arrow_c_stream__"):
        return _source(pl.DataFrame(frame))
    raise InputError(f"a polars or pandas frame is needed, found {_type(frame)}; for lists use from_columns")


def from_dataset(dataset: Any) -> Source:
    """Opens a Hugging Face data set.

    Raises:
        InputError: Something else, several splits at once, or a streaming data set.
    """
    if isinstance(dataset, Mapping):
        first = next(iter(dataset), "train")
        raise InputError(f"the data set has splits ({', '.join(map(str, dataset))}): choose one, as dataset['{first}']")
    if not hasattr(dataset, "to_polars") or not hasattr(dataset, "num_rows"):
        raise InputError(f"a datasets.Dataset is needed, found {_type(dataset)}; load it without streaming=True")
    return _source(dataset.to_polars())


def from_columns(columns: Mapping[str, Any], name: str = _TABLE) -> Source:
    """Opens columns, each a sequence, array or series of one length; None is no column.

    Raises:
        InputError: Columns of different lengths, or values of different types in one column.
    """
    series = {column: _series(name, column, values) for column, values in columns.items() if values is not None}
    if len({len(values) for values in series.values()}) > 1:
        listed = ", ".join(f"'{column}' {len(values)}" for column, values in series.items())
        raise InputError(f"{name}: columns must have one length, found {listed}")
    return _source(pl.DataFrame(list(series.values())), name)


def _source(frame: pl.DataFrame, name: str = _TABLE) -> Source:
    return Source(name, frame.schema, lambda columns: _eager(frame.select(columns)))


def _eager(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return pieces(frame, frame.height)


def _series(table: str, name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values.alias(name)
    if type(values).__module__.partition(".")[0] == "pandas":
        plain, missing = values.to_numpy(), values.isna().to_numpy()
        lossless = plain.dtype.kind in "biufM"
        values = plain if lossless else [None if no else one for one, no in zip(plain, missing, strict=True)]
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.ndim != 1:
            raise InputError(f"{table}, column '{name}': one value a row is needed, found shape {values.shape}")
        return pl.Series(name, values, nan_to_null=False)
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise InputError(f"{table}, column '{name}': a sequence with one value a row is needed, found {show(values)}")
    items = list(values)
    if name in ("label", "weight"):  # words and numbers may stand side by side there
        items = [item if item is None or isinstance(item, str) else _as_text(item) for item in items]
    return _checked(table, name, items)


def _as_text(item: Any) -> str:
    try:
        return str(bool(item)) if isinstance(item, bool | np.bool_) else repr(float(item))
    except (TypeError, ValueError):
        return str(item)


def _checked(table: str, name: str, items: Sequence[Any]) -> pl.Series:
    """A series of items of one type; `None` fits all."""
    types: dict[type, int] = {}
    for row, item in enumerate(items):
        if type(item) not in types:
            types[type(item)] = row
    kinds: dict[str, int] = {}
    for kind, row in types.items():
        if kind is not type(None):
            kinds.setdefault(_kind(kind), row)
    if len(kinds) > 1:
        (one, first), (other, second) = sorted(kinds.items(), key=lambda item: item[1])[:2]
        raise InputError(
            f"{table}, row {second + 1}, column '{name}': {show(items[second])} is {other}, but row "
            f"{first + 1} holds {one}, {show(items[first])}; use one type"
        )
    try:
        series = pl.Series(name, items)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{table}, column '{name}': the values do not form a column ({reason})") from error
    if series.dtype == pl.Object:
        raise InputError(f"{table}, column '{name}': values of type {_type(items[0])} cannot be used")
    return series


def _kind(kind: type) -> str:
    for name, kinds in (
        ("a truth value", (bool, np.bool_)),
        ("an integer", (int, np.integer)),
        ("a number", (float, np.floating)),
        ("a string", (str,)),
        ("bytes", (bytes,)),
        ("a list", (list, tuple)),
    ):
        if issubclass(kind, kinds):
            return name
    return f"of type {kind.__name__}"


def _type(value: object) -> str:
    return type(value).__name__
