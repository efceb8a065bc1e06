"""Tables on disk: opening them, what is wrong with one that does not open, writing them whole."""

import csv
import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pal._checks import path_of
from pal._tables.frames import from_columns, pieces
from pal._tables.layout import KNOWN, Source, show
from pal.errors import InputError

__all__ = ["from_file", "write_frame"]

_TEXTS = ("chosen", "rejected", "left", "right", "prompt")
_BLOCK = 2**24


def from_file(path: str | Path) -> Source:
    """Opens a file by its ending.

    Raises:
        InputError: It is missing, empty, damaged or of an unknown kind.
    """
    file = path_of("path", path)
    ending = file.suffix.lower()
    opened = {".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv}
    if not file.exists():
        raise InputError(f"{path}: no such file; check the path")
    if file.is_dir():
        raise InputError(f"{path} is a folder; name the file, or a list of files, that hold the comparisons")
    if ending not in opened:
        hint = "; .jsonl is one JSON object a line" if ending == ".json" else ""
        raise InputError(f"{path}: unknown ending {file.suffix!r}; save the table as .parquet, .jsonl or .csv{hint}")
    if file.stat().st_size == 0:
        raise InputError(f"{path} is empty; a table needs at least one comparison")
    return opened[ending](file)


def _parquet(path: Path) -> Source:
    """A parquet file is never wholly in memory."""
    scan = pl.scan_parquet(path, glob=False)
    with _explained(path):
        schema = scan.collect_schema()
        rows = scan.select(pl.len()).collect().item()

    def frames(columns: list[str]) -> Iterator[pl.DataFrame]:
        with _explained(path):
            yield from pieces(scan.select(columns), rows)

    return Source(str(path), schema, frames, folder=path.parent)


def _csv(path: Path) -> Source:
    """Every value of a csv file is a string, since nothing in csv tells 1 from "1"."""
    scan = pl.scan_csv(path, infer_schema=False, glob=False)
    with _explained(path, _what_is_wrong_in_csv):
        schema = scan.collect_schema()
    names = schema.names()
    if "\ufffd" in "".join(names):  # polars replaces what it cannot decode in a header
        _refuse_bytes(path)
    twice = next((name for name in names if f"{name}_duplicated_0" in names), None)
    if twice is not None:
        raise InputError(f"{path} has two columns '{twice}': rename or drop one of them")
    other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    hint = f"; the columns seem to be separated by {other!r}: separate them by commas" if other else ""

    def frames(columns: list[str]) -> Iterator[pl.DataFrame]:
        empty = pl.all_horizontal(pl.col([name for name in names if name in KNOWN]).is_null())
        with _explained(path, _what_is_wrong_in_csv):
            frame = scan.filter(~empty).select(columns).collect()
        yield from pieces(frame, frame.height)

    return Source(str(path), schema, frames, lambda row: _csv_line(path, row), path.parent, hint)


def _jsonl(path: Path) -> Source:
    scan = pl.scan_ndjson(path, infer_schema_length=None)
    try:
        schema = scan.collect_schema()
    except (pl.exceptions.PolarsError, OSError):
        return _slow_jsonl(path)
    # polars makes "1" of 1, and text of messages, where a column holds these and strings
    strings = [name for name in ("user_id", *_TEXTS) if schema.get(name) == pl.String]
    if strings and _other_than_strings(path, strings):
        _what_is_wrong_in_jsonl(path)

    def frames(columns: list[str]) -> Iterator[pl.DataFrame]:
        try:
            frame = scan.select(columns).collect()
        except (pl.exceptions.PolarsError, OSError):
            yield from _slow_jsonl(path).frames(columns)
        else:
            yield from pieces(frame, frame.height)

    return Source(str(path), schema, frames, lambda row: _jsonl_line(path, row), path.parent)


def _slow_jsonl(path: Path) -> Source:
    """Says what is wrong, or reads what polars does not: labels that are now 0.5, now true."""
    _what_is_wrong_in_jsonl(path)
    objects = [found for _, found in _jsonl_objects(path)]
    if not objects:
        raise InputError(f"{path} has no rows; a table needs at least one comparison")
    names = dict.fromkeys(name for found in objects for name in found if name in KNOWN)
    source = from_columns({name: [found.get(name) for found in objects] for name in names}, str(path))
    return replace(source, line=lambda row: _jsonl_line(path, row), folder=path.parent)


@contextmanager
def _explained(path: Path, explain: Callable[[Path], None] = lambda _: None) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        explain(path)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged, or no {path.suffix[1:]} file ({reason}); write it again") from error


def _refuse_bytes(path: Path) -> None:
    """Raises for the first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save as UTF-8"
                ) from error


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records with the line they begin on, the header first."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            for record in reader:
                yield line, record
                line = reader.line_num + 1
    except csv.Error as error:
        problem = f"quotes do not match ({error}); write a quote inside a value twice"
        raise InputError(f"{path}, line {line}: {problem}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_line(path: Path, row: int) -> int | None:
    records = _csv_records(path)
    _, header = next(records)
    places = [place for place, name in enumerate(header) if name in KNOWN]
    filled = (line for line, record in records if any(record[place : place + 1] != [""] for place in places if record))
    return next((line for place, line in enumerate(filled) if place == row), None)


def _what_is_wrong_in_csv(path: Path) -> None:
    """Raises if it finds out."""
    _refuse_bytes(path)
    width, row = 0, 0
    for line, record in _csv_records(path):
        width = width or len(record)
        if len(record) > width:
            raise InputError(
                f"{path}, row {row} (line {line}): {len(record)} values, but {width} columns in the header; "
                "quote values that hold commas"
            )
        row += bool(record)


def _other_than_strings(path: Path, columns: Sequence[str]) -> bool:
    """Whether one of these keys seems to have a value that is neither string nor null."""
    keys = "|".join(re.escape(column) for column in columns).encode()
    found = re.compile(rb'"(?:' + keys + rb')"\s*:\s*[^"\sn]')
    rest = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            lines, mark, tail = block.rpartition(b"\n")
            if found.search(rest + lines):
                return True
            rest = tail if mark else rest + tail
    return found.search(rest) is not None


def _jsonl_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with the line they stand on.

    Raises:
        InputError: A line is not a JSON object.
    """
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"cut in the middle or not JSON ({error.msg}, character {error.pos + 1})"
                raise InputError(f"{path}, line {number}: {problem}; write it again or remove it") from error
            if not isinstance(found, dict):
                raise InputError(f"{path}, line {number}: a JSON object is needed, found {show(found)}")
            yield number, found


def _jsonl_line(path: Path, row: int) -> int | None:
    return next((line for place, (line, _) in enumerate(_jsonl_objects(path)) if place == row), None)


def _what_is_wrong_in_jsonl(path: Path) -> None:
    """Raises if it finds out."""
    _refuse_bytes(path)
    names: dict[type, str] = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "a truth value",
        list: "a list",
    }
    first: dict[str, tuple[int, Any]] = {}
    for row, (line, found) in enumerate(_jsonl_objects(path), 1):
        for column in ("user_id", *_TEXTS):
            value = found.get(column)
            if value is None:
                continue
            line_before, before = first.setdefault(column, (line, value))
            if type(value) is not type(before):
                raise InputError(
                    f"{path}, row {row} (line {line}), column '{column}': {show(value)} is "
                    f"{names.get(type(value), 'an object')}, but line {line_before} holds "
                    f"{names.get(type(before), 'an object')}, {show(before)}; use one type"
                )


def write_frame(frame: pl.DataFrame, path: Path, compression: Literal["zstd", "uncompressed"] = "zstd") -> None:
    """Writes a table by the ending of the path; the file appears whole or not at all. Parquet may be compressed.

    Raises:
        InputError: An unknown ending, no such folder, or bytes in a format for text.
    """
    ending = path.suffix.lower()
    if ending not in (".parquet", ".jsonl", ".ndjson", ".csv"):
        raise InputError(f"{path}: unknown ending {path.suffix!r}; write to .parquet, .jsonl or .csv")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder '{path.parent}'; make it first")
    if ending != ".parquet" and pl.Binary in frame.dtypes:
        raise InputError(f"{path}: images given as bytes do not fit into {ending}; write to .parquet")
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            if ending == ".parquet":
                frame.write_parquet(file, compression=compression)
            elif ending == ".csv":
                frame.write_csv(file, quote_style="non_numeric")
            else:
                frame.write_ndjson(file)
        part.replace(path)
    except OSError as error:  # a full disk names no file
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
