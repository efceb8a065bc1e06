"""Embedded comparisons in memory, written once to a shared folder from which each worker takes its users' rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._distributed.reading import Reading
from pal._distributed.training import Given
from pal._distributed.vectors import write_matrix
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import RewardModel
from pal.training import TrainConfig
from pal.users import rows_of

__all__ = ["hand_over", "numbered"]


def hand_over(train: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig, folder: Path) -> Given:
    """Writes the comparisons with numbers for ids, in the order that one process gives them, and the vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = (train, validation)
    if (train.prompts is None) != (validation.prompts is None):
        raise InputError("training and validation comparisons must both have prompts, or neither")
    # items of two tables are numbered one table after the other; mostly it is one table
    responses, response_starts = _joined([part.responses for part in parts])
    prompts, prompt_starts = _joined([part.prompts for part in parts])
    users = (train.comparisons.user.astype(np.int64), _users(train, validation))
    frames = []
    for part, name, user, r, p in zip(
        parts, ("train", "validation"), users, response_starts, prompt_starts, strict=True
    ):
        table = part.comparisons
        columns = {
            "user_id": user,
            "left_id": table.left.astype(np.int64) + r,
            "right_id": table.right.astype(np.int64) + r,
            "label": table.label,
            "split": [name] * len(table),
        }
        if prompts is not None and table.prompt is not None:
            columns["prompt_id"] = table.prompt.astype(np.int64) + p
        if any(one.comparisons.weight is not None for one in parts):
            columns["weight"] = np.ones(len(table), np.float32) if table.weight is None else table.weight
        frames.append(pl.DataFrame(columns))
    vectors = folder / "responses"
    write_matrix(pl.Series(np.arange(len(responses))).cast(pl.String), responses, vectors)
    if prompts is not None:
        write_matrix(pl.Series(np.arange(len(prompts))).cast(pl.String), prompts, folder / "prompts")
    table_file = folder / "answers.parquet"
    if not table_file.is_file():
        fresh = folder / "answers.parquet.new"
        pl.concat(frames, how="diagonal").write_parquet(fresh)
        fresh.replace(table_file)
    facts = ("encoder", "revision", "prompt_encoder", "prompt_revision", "prompt_mode")
    return Given(
        str(table_file),
        Reading(
            vectors=str(vectors),
            prompt_vectors=None if prompts is None else str(folder / "prompts"),
            prompt_mode="none" if prompts is None else "separate",
        ),
        config,
        str(folder / "checkpoints"),
        (len(responses), 1 if prompts is None else len(prompts)),
        {name: getattr(train, name) for name in facts},
        train.comparisons.sided,
    )


def numbered(start: RewardModel, user_ids: pl.Series) -> RewardModel:
    """The model, its users under their numbers; those who are not among them have negative ones."""
    rows = rows_of(start.user_ids, user_ids)
    named = replace(start.users, ids=pl.Series("user_id", np.where(rows < 0, -1 - np.arange(len(rows)), rows)))
    return RewardModel(start.config, start.prototypes, named, start.prior)


def _users(train: EmbeddedComparisons, validation: EmbeddedComparisons) -> npt.NDArray[np.int64]:
    mine, theirs = train.comparisons.user_ids, validation.comparisons.user_ids
    rows = rows_of(theirs, mine)
    rows = np.where(rows < 0, len(mine) + np.arange(len(theirs)), rows)
    return rows[validation.comparisons.user]


def _joined(arrays: list[Any]) -> tuple[Any, tuple[int, int]]:
    if arrays[0] is None or arrays[0] is arrays[1] or arrays[1] is None:
        return arrays[0], (0, 0)
    return np.concatenate(arrays), (0, len(arrays[0]))
