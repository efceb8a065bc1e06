"""Majority: what most people answered to this very comparison."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal.baselines._lookup import Lookup, ordered_keys
from pal.embeddings import EmbeddedComparisons
from pal.training import TrainConfig

__all__ = ["MajorityModel", "fit_majority"]


class MajorityModel:
    """P(left preferred) is the share of people who preferred it; the same for everyone.

    A comparison nobody answered in training gets the share of left answers overall, or one half where the side says
    nothing. Two answers' worth of that prior are mixed into each share.
    """

    def __init__(
        self, lookup: Lookup, table: pl.DataFrame, wins: pl.DataFrame, overall: float, users: pl.Series, joint: bool
    ) -> None:
        self.lookup, self.table, self.wins, self.overall = lookup, table, wins, overall
        self.user_ids, self.joint = users, joint

    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,)."""
        found = ordered_keys(data).join(self.table, on=["prompt", "first", "second"], how="left", maintain_order="left")
        n = found["n"].fill_null(0.0).to_numpy()
        first = found["first_share"].fill_null(0.0).to_numpy()
        swapped = found["swapped"].to_numpy()
        left = np.where(swapped, n - first, first)
        share: npt.NDArray[np.float32] = ((left + 2 * self.overall) / (n + 2)).astype(np.float32)
        return share

    def with_answers(self, few: EmbeddedComparisons) -> "MajorityModel":  # noqa: ARG002 - one person changes nothing
        """The same model."""
        return self

    def reward(
        self,
        user_id: Any = None,  # noqa: ARG002 - one interface
        *,
        responses: Any,
        prompt: Any = None,
        weights: Any = None,  # noqa: ARG002
    ) -> npt.NDArray[np.float32]:
        """Share of its comparisons (to this prompt) that each response won, (n,); one half where it had none."""
        named, names = self.lookup.named(prompt, responses, self.joint)
        wanted = pl.DataFrame({"response": pl.Series(names, dtype=pl.String)}).with_columns(prompt=pl.lit(named))
        found = wanted.join(self.wins, on=["prompt", "response"], how="left", maintain_order="left")
        return found["share"].fill_null(0.5).cast(pl.Float32).to_numpy()


def fit_majority(
    train: EmbeddedComparisons,
    validation: EmbeddedComparisons,  # noqa: ARG001 - one interface
    config: TrainConfig,  # noqa: ARG001 - one interface
) -> MajorityModel:
    """Counts the training answers, each as much as it weighs."""
    label = train.comparisons.label.astype(np.float64)
    weight = np.ones(len(label)) if train.comparisons.weight is None else train.comparisons.weight.astype(np.float64)
    keys = ordered_keys(train).with_columns(label=pl.Series(label), weight=pl.Series(weight))
    first = pl.when("swapped").then(1 - pl.col("label")).otherwise("label")
    table = keys.group_by("prompt", "first", "second").agg(
        first_share=(first * pl.col("weight")).sum(), n=pl.col("weight").sum()
    )
    sides = [
        keys.select("prompt", "weight", response="first", won=first),
        keys.select("prompt", "weight", response="second", won=1 - first),
    ]
    won = (pl.col("won") * pl.col("weight")).sum() / pl.col("weight").sum()
    wins = pl.concat(sides).filter(pl.col("weight") > 0).group_by("prompt", "response").agg(share=won)
    present = np.flatnonzero(train.comparisons.user_counts())
    # with a yes and a no of nobody: where all said yes another may not
    overall = float((label @ weight + 1) / (weight.sum() + 2)) if train.comparisons.sided else 0.5
    users, joint = train.comparisons.user_ids.gather(present), train.prompt_mode == "joint"
    return MajorityModel(Lookup(train), table, wins, overall, users, joint)
