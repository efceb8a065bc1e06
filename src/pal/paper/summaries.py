r"""TL;DR summaries compared by workers with ids (Stiennon et al., 2020), as published on the Hub, and its filters.

`openai/summarize_from_feedback`, config `comparisons`; a row is one answer of one worker:

- ``info.post``: the post that is summarised (news articles have `info.article` instead, and no post);
- ``summaries``: two of them, each with ``text`` and ``policy``, the model that wrote it;
- ``choice``: 0 or 1, the preferred one;
- ``worker``, and ``split``: "train", or one of the held-out parts.

Put the files, parquet or jsonl, in ``$PAL_DATA/summarize_from_feedback``, those of the fold "validation" with that word
in their path:

    hf download openai/summarize_from_feedback --repo-type dataset --revision refs/convert/parquet \
        --include 'comparisons/*' --local-dir $PAL_DATA/summarize_from_feedback
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from pal.comparisons import Comparisons
from pal.errors import InputError

__all__ = ["by_length", "comparisons", "filter_li", "filter_stiennon", "read", "top_workers"]

TOP = 10  # workers of Li et al.
SHORTER = (3, 4, 5)  # places, by number of answers, of the workers whom the authors make prefer the shorter summary


def read(folder: str | Path) -> pl.DataFrame:
    """The comparisons of a folder: worker, post, left, right, left_policy, right_policy, choice, fold.

    Rows without a worker or a summary are left out; ``post`` is null where something else was summarised.

    Raises:
        InputError: no files, or files of another schema.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".parquet", ".jsonl"))
    if not paths:
        raise InputError(f"{folder}: no .parquet or .jsonl files; download openai/summarize_from_feedback there")
    return pl.concat([_rows(path) for path in paths]).filter(
        pl.all_horizontal(pl.col("worker", "left", "right").is_not_null())
    )


def _rows(path: Path) -> pl.DataFrame:
    try:
        frame = (
            pl.read_parquet(path, glob=False)
            if path.suffix == ".parquet"
            else pl.read_ndjson(path, infer_schema_length=None)
        )
        summaries = pl.col("summaries").list
        rows = frame.select(
            pl.col("worker").cast(pl.String),
            pl.col("info").struct.field("post").cast(pl.String),
            left=summaries.get(0, null_on_oob=True).struct.field("text"),
            right=summaries.get(1, null_on_oob=True).struct.field("text"),
            left_policy=summaries.get(0, null_on_oob=True).struct.field("policy"),
            right_policy=summaries.get(1, null_on_oob=True).struct.field("policy"),
            choice=pl.col("choice").cast(pl.Int64),
            fold=pl.lit("validation" if "valid" in path.as_posix().lower() else "train"),
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not in the schema of summarize_from_feedback/comparisons: {reason}") from error
    bad = rows.filter(~pl.col("choice").is_in([0, 1]).fill_null(False))
    if len(bad):
        raise InputError(f"{path}, column 'choice': found {bad['choice'][0]}; it must be 0 or 1")
    return rows


def filter_li(rows: pl.DataFrame) -> pl.DataFrame:
    """Li et al. (the paper's [36], E.6): both summaries by supervised models, neither by one trained with PPO.

    Of the training fold only the ten workers with the most comparisons are kept; the validation fold keeps everyone.
    """
    kept = rows.filter(pl.col("post").is_not_null())
    for side in ("left_policy", "right_policy"):
        policy = pl.col(side).fill_null("")
        kept = kept.filter(policy.str.contains("sup") & ~policy.str.contains("ppo"))
    return kept.filter((pl.col("fold") != "train") | pl.col("worker").is_in(top_workers(kept)))


def filter_stiennon(rows: pl.DataFrame) -> pl.DataFrame:
    """Stiennon et al. (the paper's [59]): every comparison of summaries of Reddit posts, whoever wrote them."""
    return rows.filter(pl.col("post").is_not_null())


def top_workers(rows: pl.DataFrame, top: int = TOP) -> list[str]:
    """The workers with the most comparisons in the training fold, most first; ids decide ties."""
    counts = rows.filter(pl.col("fold") == "train").group_by("worker").len()
    return counts.sort(["len", "worker"], descending=[True, False])["worker"].head(top).to_list()


def by_length(answers: Comparisons, top: list[str], seed: int = 0) -> Comparisons:
    """The authors' published variant: real labels are overwritten by the lengths of the two texts.

    Of the ten top workers seven prefer the longer text and three (the 4th to 6th) the shorter; of two as long, the
    right one. The authors name the other workers who prefer the shorter; here three tenths of them do, at random.

    Args:
        answers: with texts.
        top: workers with the most answers, most first.
        seed: of who else prefers the shorter.
    """
    if answers.responses.contents is None:
        raise InputError("labels by length need texts: these responses are ids")
    length = answers.responses.contents.str.len_chars().cast(pl.Int64).to_numpy()
    others = sorted(set(answers.user_ids.to_list()) - set(top))
    drawn = np.random.default_rng(seed).permutation(len(others))[: round(0.3 * len(others))]
    shorter = [top[place] for place in SHORTER if place < len(top)] + [others[row] for row in drawn]
    sign = np.where(answers.user_ids.is_in(shorter).to_numpy(), -1, 1)[answers.user]
    longer = length[answers.left] - length[answers.right]
    return replace(answers, label=(sign * longer > 0).astype(np.float32))


def comparisons(rows: pl.DataFrame) -> Comparisons:
    """Rows as comparisons: the post is the prompt, the summaries are left and right."""
    return Comparisons.from_columns(
        user_id=rows["worker"],
        prompt=rows["post"],
        left=rows["left"],
        right=rows["right"],
        label=1.0 - rows["choice"].cast(pl.Float32),
    )
