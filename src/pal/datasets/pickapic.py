"""Pick-a-Pic: people who chose between two pictures made for their prompt (Kirstain et al., 2023), v1 and v2.

On the Hub as `yuvalkirstain/pickapic_v1` and `pickapic_v2`; with `_no_images` behind the name without the pictures:
all that ready embeddings need. A row is one answer of one person:

- ``user_id``: a number;
- ``caption``: what they asked for;
- ``image_0_uid``, ``image_1_uid``, and the pictures themselves, JPEG files, in ``jpg_0``, ``jpg_1``;
- ``label_0``, ``label_1``: 1 and 0, 0 and 1, or 0.5 and 0.5 for a tie; they mean something where ``has_label``.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from pal._vectors.encoders import one_line, open_image
from pal.comparisons import Comparisons, Items
from pal.errors import EncoderError, InputError

__all__ = ["pickapic"]

FILES = ("data/*_unique-*-of-*.parquet",)  # that tell a folder: no other data set has splits of these names
COLUMNS = ("user_id", "caption", "image_0_uid", "image_1_uid", "label_0", "label_1", "has_label")
_PICTURES = {"jpg_0": "image_0_uid", "jpg_1": "image_1_uid"}
_PARTS = ("train", "validation", "test")
_NAME = re.compile(r"(?P<split>.+?)-\d+-of-(?P<count>\d+)(-\w+)?")  # train-00000-of-00645-b66ac786bf6fb553
_ROWS, _ROWS_OF_PICTURES = 500_000, 2_000  # held at a time; with pictures, about a file of the Hub's


@dataclass(frozen=True)
class _Shard:
    """A piece of the source: how errors call it, its split, and its rows, in pieces, with only some columns."""

    name: str
    split: str
    frames: Callable[[list[str]], Iterator[pl.DataFrame]]
    files: int = 1  # that the split is cut into, as its name says


@dataclass
class _Pictures:
    """Pictures by id, each once."""

    known: set[str] = field(default_factory=set)
    frames: list[pl.DataFrame] = field(default_factory=list)

    def add(self, shard: _Shard, rows: pl.DataFrame) -> None:
        for column, name in _PICTURES.items():
            fresh = rows.select("row", id=name, content=_bytes(shard, rows[column])).unique("id", maintain_order=True)
            fresh = fresh.filter(pl.Series([uid not in self.known for uid in fresh["id"]], dtype=pl.Boolean))
            _refuse_damaged(shard, fresh, column)
            self.known.update(fresh["id"])
            self.frames.append(fresh.select("id", "content"))

    def items(self, ids: pl.Series) -> Items:
        found = ids.alias("id").to_frame().join(pl.concat(self.frames), on="id", how="left", maintain_order="left")
        return Items(ids, found["content"], "image")


def pickapic(source: Any, split: str | None = None, *, images: bool = False) -> Comparisons:
    """Reads answers: the caption is the prompt, the pictures are the responses, found by their uid; ties are 0.5.

    Without `images` a million rows take at most 0.75 GB, whatever the files weigh, and the comparisons hold ids: give
    them vectors by `pal.embed(..., embeddings=)`, a table of `id` (image uid) and `embedding`, and
    `prompt_embeddings=`, a table whose ids are the captions, or `prompt_encoder=`.

    Left out, and counted in a warning: rows without a label; of a picture beside itself; without a user, a caption or
    an image uid. People who gave nothing but ties are kept.

    Args:
        source: a folder as `hf download` leaves it (`data/train-00000-of-00645-....parquet`), one parquet file, a
            `datasets.Dataset` or `DatasetDict`, or rows (mappings), as of a streaming data set.
        split: of a folder or a `DatasetDict`, such as "test_unique". None: train, validation and test together, for
            `split(by="assigned")` (where one of them is not there, its `_unique` part).
        images: take the pictures as well. Those of the split are then held in memory, each once.

    Returns:
        One comparison a row, in the order of the source.

    Raises:
        InputError: no such split, a file that is damaged or lacks a column, or a cell that cannot be used: file, row
            and column.

    Warns:
        UserWarning: rows that are left out; files of a split that are not there.
    """
    name, shards = _shards(source, split)
    columns = [*COLUMNS, *(_PICTURES if images else ())]
    kept, pictures, dropped, total = [], _Pictures(), Counter[str](), 0
    for shard in shards:
        row = 1
        for frame in shard.frames(columns):
            answers = _answers(shard, frame.with_row_index("row", row), dropped)
            row += frame.height
            if images:
                pictures.add(shard, answers)
            kept.append(answers.drop("row", *_PICTURES, *_PICTURES.values(), strict=False))
        total += row - 1
    if not total:
        raise InputError(f"{name} has no rows; download it again")
    if not any(frame.height for frame in kept):
        raise InputError(f"{name}: none of {total} rows can be used: {_listed(dropped)}")
    if dropped:
        _warn(f"{name}: left out {dropped.total()} of {total} rows: {_listed(dropped)}")
    if len({frame.schema["user_id"] for frame in kept}) > 1:
        raise InputError(f"{name}, column 'user_id': integers in one file and strings in another; use one type")
    table = pl.concat(kept)
    with warnings.catch_warnings():  # of people with nothing but ties: many, in a split of few answers each
        warnings.simplefilter("ignore", UserWarning)
        comparisons = Comparisons.from_frame(table if table["split"].n_unique() > 1 else table.drop("split"))
    return replace(comparisons, responses=pictures.items(comparisons.responses.ids)) if images else comparisons


def _answers(shard: _Shard, rows: pl.DataFrame, dropped: Counter[str]) -> pl.DataFrame:
    """Rows that can be used, in the columns of a comparison table; what is left out is counted."""
    whole = rows["user_id"].dtype.is_numeric()
    try:
        rows = rows.with_columns(
            pl.col("user_id").cast(pl.Int64 if whole else pl.String),
            pl.col("caption", "image_0_uid", "image_1_uid").cast(pl.String),
            pl.col("label_0", "label_1").cast(pl.Float64),
            pl.col("has_label").cast(pl.Boolean),
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{shard.name}: not in the schema of Pick-a-Pic ({reason})") from error
    named = pl.col("user_id", "caption", "image_0_uid", "image_1_uid").cast(pl.String)
    empty = pl.any_horizontal(named.is_null() | (named == ""))
    for reason, bad in (
        ("without a label", ~pl.col("has_label").fill_null(False)),
        ("without a user, a caption or an image uid", empty),
        ("of a picture beside itself", pl.col("image_0_uid") == pl.col("image_1_uid")),
    ):
        before, rows = rows.height, rows.filter(~bad)
        if rows.height < before:
            dropped[reason] += before - rows.height
    sound = pl.col("label_0").is_between(0, 1) & ((pl.col("label_0") + pl.col("label_1") - 1).abs() < 1e-6)
    wrong = rows.filter(~sound.fill_null(False))
    if wrong.height:
        row, first, second = wrong.select("row", "label_0", "label_1").row(0)
        raise InputError(
            f"{shard.name}, row {row}, column 'label_0': found {first} beside {second} in 'label_1'; labels must be 1 "
            "and 0, 0 and 1, or 0.5 and 0.5"
        )
    return rows.select(
        "row",
        "user_id",
        *[name for name in _PICTURES if name in rows.columns],
        "image_0_uid",
        "image_1_uid",
        prompt="caption",
        left_id="image_0_uid",
        right_id="image_1_uid",
        label="label_0",
        split=pl.lit(shard.split.removesuffix("_unique")),
    )


def _bytes(shard: _Shard, values: pl.Series) -> pl.Series:
    """Pictures as bytes, of a column of bytes or of the Hub's images ({bytes, path})."""
    if isinstance(values.dtype, pl.Struct) and "bytes" in {inner.name for inner in values.dtype.fields}:
        values = values.struct.field("bytes")
    if values.dtype not in (pl.Binary, pl.Null):
        raise InputError(f"{shard.name}, column '{values.name}': bytes of pictures are needed, found {values.dtype}")
    return values.cast(pl.Binary)


def _refuse_damaged(shard: _Shard, rows: pl.DataFrame, column: str) -> None:
    # a JPEG that begins and ends as it should is taken at its word: decoding all takes longer than reading them
    content = pl.col("content")
    whole = content.bin.starts_with(b"\xff\xd8\xff") & content.bin.ends_with(b"\xff\xd9")
    for row, picture in rows.filter(~whole.fill_null(False)).select("row", "content").rows():
        try:
            open_image(picture or b"")
        except EncoderError as error:
            problem = "is empty" if not picture else str(error).partition("cannot be read: ")[2] or str(error)
            raise InputError(
                f"{shard.name}, row {row}, column '{column}': no picture ({problem}); download the file again"
            ) from error


def _shards(source: Any, split: str | None) -> tuple[str, list[_Shard]]:
    """How errors call the source, and its pieces."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        return str(source), _chosen(str(source), split, _in_folder(Path(source)))
    if isinstance(source, Mapping):
        shards = {str(key): [_data(f"the data set, split '{key}'", str(key), value)] for key, value in source.items()}
        return "the data set", _chosen("the data set", split, shards)
    if isinstance(source, str | Path):
        if not Path(source).exists():
            raise InputError(f"{source}: no such file or folder; check the path")
        one = _Shard(str(source), "", partial(_parquet, Path(source)))
    elif isinstance(source, Iterable):
        one = _data("the data set", "", source)
    else:
        raise InputError(f"a folder, a parquet file or a data set is needed, found {type(source).__name__}")
    if split is not None:
        raise InputError(f"{one.name} is one split: leave out split={split!r}, or name the folder that holds it")
    return one.name, [one]


def _in_folder(folder: Path) -> dict[str, list[_Shard]]:
    """Pieces by split, whether `data/train-00000-of-00645.parquet`, `train.parquet` or `train/0000.parquet`."""
    found: dict[str, list[_Shard]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # where `hf download` keeps what is not whole yet
        named = _NAME.fullmatch(path.stem)
        split = named["split"] if named else path.parent.name if path.stem.isdigit() else path.stem
        shard = _Shard(str(path), split, partial(_parquet, path), int(named["count"]) if named else 1)
        found.setdefault(split, []).append(shard)
    if not found:
        raise InputError(f"{folder}: no .parquet files; download yuvalkirstain/pickapic_v1 or pickapic_v2 there")
    return found


def _chosen(name: str, split: str | None, shards: dict[str, list[_Shard]]) -> list[_Shard]:
    if split is None:
        splits = [next((one for one in (part, f"{part}_unique") if one in shards), "") for part in _PARTS]
        splits = [one for one in splits if one]
    else:
        splits = [split] if split in shards else []
    if not splits:
        wanted = "train, validation or test" if split is None else f"'{split}'"
        raise InputError(f"{name}: no split {wanted} among {', '.join(sorted(shards))}")
    for one in splits:
        if len(shards[one]) < shards[one][0].files:
            _warn(f"{name}: {len(shards[one])} of the {shards[one][0].files} files of split '{one}' are here")
    return [shard for one in splits for shard in shards[one]]


def _parquet(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    scan = pl.scan_parquet(path, glob=False)
    try:
        names = scan.collect_schema().names()
        _refuse_missing(str(path), columns, names)
        size, start = _size(columns), 0
        while (frame := scan.select(columns).slice(start, size).collect()).height:
            yield frame
            start += size
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged, or no parquet file ({reason}); download it again") from error


def _data(name: str, split: str, data: Any) -> _Shard:
    """A `datasets.Dataset`, or rows."""

    def frames(columns: list[str]) -> Iterator[pl.DataFrame]:
        size = _size(columns)
        if hasattr(data, "num_rows") and hasattr(data, "to_polars"):  # a streaming data set has no number of rows
            _refuse_missing(name, columns, data.column_names)
            narrow = data.select_columns(columns)
            for start in range(0, len(narrow), size):
                yield narrow.select(range(start, min(start + size, len(narrow)))).to_polars()
            return
        rows = iter(data)
        while piece := list(islice(rows, size)):
            for row in piece:
                if not isinstance(row, Mapping):
                    raise InputError(f"{name}: rows must be mappings of columns, found {type(row).__name__}")
                _refuse_missing(name, columns, list(row))
            try:
                yield pl.DataFrame({column: [row[column] for row in piece] for column in columns})
            except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
                raise InputError(f"{name}: values of different types in one column: {one_line(error)}") from error

    return _Shard(name, split, frames)


def _size(columns: list[str]) -> int:
    return _ROWS_OF_PICTURES if "jpg_0" in columns else _ROWS


def _refuse_missing(name: str, columns: list[str], found: list[str]) -> None:
    for column in columns:
        if column not in found:
            listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
            remedy = "these are without pictures: leave out images=True" if column in _PICTURES else "is it Pick-a-Pic?"
            raise InputError(f"{name} has no column '{column}', but {listed or 'none'}: {remedy}")


def _listed(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items())


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
