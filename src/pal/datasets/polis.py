"""Polis: people who agree, disagree or pass on statements that others wrote (github.com/compdemocracy/openData)."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import one_of, whole
from pal.comparisons import Comparisons
from pal.datasets._files import folder_of, read_file, votes_on
from pal.errors import InputError

__all__ = ["polis"]

FILES = ("comments.csv", "participants-votes.csv")


def polis(folder: str | Path, min_votes: int = 10, passes: str = "drop") -> Comparisons:
    """Reads the export of one conversation: votes compare "Agree" (left) and "Disagree", the statement is the prompt.

    Identical statements are one prompt; a person's votes on both are kept. Votes on statements without a text
    are left out. Both are said in a warning. Statements that moderators took off are kept: people had voted.

    Args:
        folder: with `comments.csv` and `participants-votes.csv`.
        min_votes: people with fewer agree and disagree votes, together, are left out.
        passes: "drop", or "tie": a pass is a comparison with label 0.5. People are chosen alike.

    Returns:
        One comparison a vote, person by person in the order of the file. User ids are the participant numbers, as
        strings.

    Raises:
        InputError: a file is missing or damaged, a cell is not a vote, or nobody has `min_votes` votes.

    Warns:
        UserWarning: votes without a text, identical statements.
    """
    folder = folder_of(folder)
    one_of("passes", passes, ("drop", "tie"))
    whole("min_votes", min_votes)
    comments = read_file(folder / FILES[0], ("comment-id", "comment-body"))
    sheet = read_file(folder / FILES[1], ("participant",))
    people = sheet["participant"]
    _refuse_repeats(folder / FILES[0], comments["comment-id"])
    _refuse_repeats(folder / FILES[1], people)

    columns = [name for name in sheet.columns if name.isdigit()]
    if not columns:
        raise InputError(f"{folder / FILES[1]} has no columns named after comment ids: nobody voted on anything")
    votes = _votes(folder / FILES[1], sheet.select(columns), people)
    texts = _texts(columns, comments)
    without = texts.is_null().to_numpy()
    if passes == "drop":
        votes[votes == 0] = np.nan
    lost = int(np.count_nonzero(~np.isnan(votes[:, without])))
    if lost:
        _warn(f"{folder}: left out {_count(lost, 'vote')} on statements that have no text in {FILES[0]}")
    votes[:, without] = np.nan
    votes[np.count_nonzero(np.abs(votes) == 1, axis=1) < min_votes] = np.nan

    user, column = np.nonzero(~np.isnan(votes))
    if not len(user):
        raise InputError(f"{folder}: nobody has {min_votes} votes on statements with a text; lower min_votes")
    voted = texts.to_frame("text").with_row_index("column").filter(pl.col("column").is_in(np.unique(column)))
    distinct = voted.unique("text", keep="first", maintain_order=True)
    if distinct.height < voted.height:
        again = _count(voted.height - distinct.height, "statement")
        _warn(f"{folder}: took {again} together with an earlier one of the same text")
    place = texts.to_frame("text").join(
        distinct.select("text").with_row_index("row"), on="text", how="left", maintain_order="left"
    )["row"]
    return votes_on(
        distinct["text"],
        people,
        user=user.astype(np.int32),
        statement=place.fill_null(0).cast(pl.Int32).to_numpy()[column],
        label=((votes[user, column] + 1) / 2).astype(np.float32),
        responses=("Agree", "Disagree"),
    ).compact()


def _votes(path: Path, cells: pl.DataFrame, people: pl.Series) -> npt.NDArray[np.float32]:
    """(people, statements): 1 agree, -1 disagree, 0 pass, NaN for no vote."""
    numbers = cells.select(pl.all().cast(pl.Float32, strict=False))
    votes = numbers.to_numpy(order="c", writable=True)
    empty = cells.select(pl.all().is_null()).to_numpy()
    bad = np.argwhere(~empty & ~np.isin(votes, (-1, 0, 1)))
    if len(bad):
        row, column = (int(place) for place in bad[0])
        raise InputError(
            f"{path}, participant {people[row]!r}, column '{cells.columns[column]}': {cells[row, column]!r} is not "
            "a vote; votes are 1 (agree), -1 (disagree), 0 (pass), or nothing"
        )
    return votes


def _texts(columns: list[str], comments: pl.DataFrame) -> pl.Series:
    """The statement of each column, null where it has none."""
    bodies = comments.select(id="comment-id", text="comment-body")
    found = pl.DataFrame({"id": columns}).join(bodies, on="id", how="left", maintain_order="left")["text"]
    return found.set(found.str.strip_chars().str.len_bytes() == 0, None)


def _refuse_repeats(path: Path, ids: pl.Series) -> None:
    if ids.null_count():
        row = int(ids.is_null().arg_true()[0])
        raise InputError(f"{path}, row {row + 1}, column '{ids.name}': is empty; every row needs an id")
    if ids.n_unique() < len(ids):
        again = ids.filter(ids.is_duplicated())[0]
        raise InputError(f"{path}, column '{ids.name}': {again!r} stands there more than once; keep one row of it")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
