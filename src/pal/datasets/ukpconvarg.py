"""UKPConvArg: crowd workers who chose the more convincing of two arguments (UKPLab/acl2016-convincing-arguments)."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from pal.comparisons import Comparisons, Items
from pal.datasets._files import folder_of, read_file
from pal.errors import InputError

__all__ = ["ukpconvarg"]

FILES = ("arguments.parquet", "judgements.parquet")


def ukpconvarg(folder: str | Path, min_answers: int = 1) -> Comparisons:
    """Reads judgements of pairs of arguments: the topic and stance is the prompt, "equal" is a tie (0.5).

    Some arguments were posted twice. Identical texts are one response, and judgements between them, which say nothing
    about either, are left out with a warning.

    Args:
        folder: with `judgements.parquet` (user_id, prompt, left_id, right_id, label) and `arguments.parquet` (id,
            text).
        min_answers: workers who gave fewer judgements, "equal" among them, are left out.

    Returns:
        One comparison a judgement, in the order of the table. Prompts are readable: "topic words: stance words".

    Raises:
        InputError: a table is missing or damaged, or nobody has `min_answers` judgements.

    Warns:
        UserWarning: judgements between identical texts; workers who answered only "equal".
    """
    folder = folder_of(folder)
    arguments = read_file(folder / FILES[0], ("id", "text"))
    judgements = folder / FILES[1]
    read_file(judgements, ("user_id", "left_id", "right_id", "label"))
    with warnings.catch_warnings():  # of workers with only ties: said below, of those who are kept
        warnings.simplefilter("ignore", UserWarning)
        answered = Comparisons.read(judgements)

    ids = answered.responses.ids
    if arguments["id"].n_unique() < arguments.height:
        again = arguments["id"].filter(arguments["id"].is_duplicated())[0]
        raise InputError(f"{folder / FILES[0]}, column 'id': {again!r} stands there more than once; keep one row of it")
    found = (
        ids.alias("id")
        .to_frame()
        .join(arguments.select(pl.col("id").cast(pl.String), "text"), on="id", how="left", maintain_order="left")
    )
    lost = found.filter(pl.col("text").is_null() | (pl.col("text") == ""))["id"]
    if len(lost):
        raise InputError(f"{judgements} speaks of argument {lost[0]!r}, which has no text in {FILES[0]}; add it")
    texts = found["text"].unique(maintain_order=True).alias("id")
    place = found.join(texts.alias("text").to_frame().with_row_index("row"), on="text", maintain_order="left")
    row = place["row"].cast(pl.Int32).to_numpy()

    comparisons = replace(
        answered,
        left=row[answered.left],
        right=row[answered.right],
        responses=Items(texts, texts, "text"),
        prompts=_readable(answered.prompts),
    )
    enough = comparisons.user_counts()[comparisons.user] >= min_answers
    same = comparisons.left == comparisons.right
    if not np.any(enough & ~same):
        raise InputError(f"{judgements}: nobody has {min_answers} judgements; lower min_answers")
    kept = comparisons.take(enough & ~same).compact()
    if np.any(enough & same):
        warnings.warn(
            f"{judgements}: {np.count_nonzero(enough & same)} judgements between identical texts are left out",
            stacklevel=2,
        )
    only_ties = kept.n_users - len(np.unique(kept.user[kept.label != 0.5]))
    if only_ties:
        warnings.warn(
            f"{judgements}: {only_ties} workers gave nothing but ties: kept, but ties tell little", stacklevel=2
        )
    return kept


def _readable(prompts: Items | None) -> Items | None:
    """Topics are published as slugs, "ban-plastic-bottles_no-bad-idea": words are better for encoders and people."""
    if prompts is None:
        return None
    words = prompts.ids.str.replace("-*_", ": ").str.replace_all("-+", " ").str.strip_chars()
    phrased = prompts.ids.str.contains(" ").any()
    if phrased or words.n_unique() < len(words) or (words == "").any():
        return prompts
    return Items(words, words, "text")
