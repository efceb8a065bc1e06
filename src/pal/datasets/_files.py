"""What the loaders share: opening a file of a data set, and votes on statements as comparisons."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import path_of
from pal.comparisons import Comparisons, Items
from pal.errors import InputError

__all__ = ["folder_of", "read_file", "votes_on"]

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".parquet": lambda path: pl.read_parquet(path, glob=False),
}


def folder_of(path: str | Path) -> Path:
    """The path, if it is a folder.

    Raises:
        InputError: it is not.
    """
    folder = path_of("folder", path)
    if folder.is_dir():
        return folder
    raise InputError(
        f"{path} is a file; name the folder that holds the data set"
        if folder.exists()
        else f"{path}: no such folder; check the path"
    )


def read_file(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The whole of a csv (every value a string), jsonl or parquet file.

    Args:
        path: the file.
        columns: those it must have.

    Raises:
        InputError: it is missing, empty, damaged, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; the data set is not complete without it")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; download it again")
    try:
        frame = _READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged, or no {path.suffix[1:]} file ({reason}); download it again") from error
    for name in columns:
        if name not in frame.columns:
            found = ", ".join(frame.columns[:8]) + (", ..." if frame.width > 8 else "")
            raise InputError(f"{path} has no column '{name}', but {found}: is it the file it is named after?")
    if frame.height == 0:
        raise InputError(f"{path} has no rows; download it again")
    return frame


def votes_on(
    statements: pl.Series,
    user_ids: pl.Series,
    *,
    user: IntArray,
    statement: IntArray,
    label: FloatArray,
    responses: tuple[str, str],
) -> Comparisons:
    """Votes as comparisons: the statement is the prompt, the two answers are the responses.

    Args:
        statements: (P,) distinct texts.
        user_ids: (U,) distinct ids.
        user: (n,) rows of `user_ids`.
        statement: (n,) rows of `statements`.
        label: (n,) 1 for the first response, 0 for the second, 0.5 for neither.
        responses: what a vote chooses between, such as ("Agree", "Disagree").
    """
    answers, texts = pl.Series("id", responses), statements.alias("id")
    return Comparisons(
        user=user,
        left=np.zeros(len(user), np.int32),
        right=np.ones(len(user), np.int32),
        prompt=statement,
        label=label,
        weight=None,
        timestamp=None,
        assigned=None,
        user_ids=user_ids.alias("user_id"),
        responses=Items(answers, answers, "text"),
        prompts=Items(texts, texts, "text"),
        sided=True,
    )
