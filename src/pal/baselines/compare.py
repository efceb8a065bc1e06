"""Models side by side on the same splits."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pal.baselines.names import BASELINES, Baseline
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.evaluation import evaluate, paired_difference, shot_curve
from pal.selection import fit as fit_pal
from pal.training import TrainConfig

__all__ = ["compare"]

PAL = {"pal-a": "a", "pal-b": "b"}
_MEASURES = ("accuracy", "accuracy_by_user", "balanced_accuracy", "worst_tenth", "log_loss", "brier", "ece")


def compare(
    data: EmbeddedComparisons,
    names: Sequence[str],
    config: TrainConfig | None = None,
    seeds: int = 5,
    unseen_users: float = 0.2,
    shots: Sequence[int] = (0, 5, 20),
    test: float = 0.2,
    validation: float = 0.1,
) -> list[dict[str, Any]]:
    """Fits every model on the same splits.

    Args:
        data: all comparisons.
        names: of baselines, "pal-a" or "pal-b".
        config: of PAL and of the maps that `btl` shares with it.
        seeds: splits and runs.
        unseen_users: share of people kept apart as new.
        shots: numbers of answers of new people; people with too few (the largest number or less) are left out.
        test: share of each other person's answers for the test.
        validation: likewise.

    Returns:
        A row a model: means over seeds of each measure on test answers of seen people; `interval`, the mean 95%
        interval of accuracy_by_user; `by_seed`, accuracy_by_user of each; `shots_N`, accuracy by user on new people
        (None where nobody has enough answers); `difference`, that of the last model minus this one's accuracy by
        user, with the mean of its interval; `n_prototypes` of each seed; seconds.

    Raises:
        InputError: an unknown name.
    """
    known = [*sorted(BASELINES), *PAL]
    for name in names:
        if name not in known:
            raise InputError(f"model {name!r} is not known: use some of {', '.join(known)}")
    if not names or seeds < 1:
        raise InputError("give at least one model and one seed")
    config = config or TrainConfig()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(seeds):
        parts = data.split(unseen_users=unseen_users, test=test, validation=validation, seed=seed)
        models: dict[str, Baseline] = {}
        for name in names:
            began = time.perf_counter()
            here = replace(config, seed=seed)
            if name in PAL:
                models[name] = fit_pal(parts.train, parts.validation, replace(here, model=PAL[name])).model
            else:
                models[name] = BASELINES[name](parts.train, parts.validation, here)
            runs[name].append({"seconds": time.perf_counter() - began})
        for name, model in models.items():
            metrics = evaluate(model, parts.test, seed=seed)
            row = runs[name][-1]
            row |= {key: getattr(metrics, key) for key in _MEASURES}
            row["interval"] = metrics.interval.get("accuracy_by_user", (np.nan, np.nan))
            row["difference"] = paired_difference(models[names[-1]], model, parts.test, seed=seed)
            row["n_prototypes"] = getattr(getattr(model, "config", None), "n_prototypes", None)
            row |= {f"shots_{n}": None for n in shots}
            try:
                curve = shot_curve(model, parts.unseen, shots, seeds=1) if len(parts.unseen) else None
            except InputError:  # nobody has enough answers
                curve = None
            if curve is not None:
                row |= {f"shots_{n}": a for n, a in zip(curve["shots"], curve["accuracy_by_user"], strict=True)}
    return [_mean(name, rows) for name, rows in runs.items()]


def _mean(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"model": name}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key == "n_prototypes":
            out[key] = values
        elif values[0] is None:
            out[key] = None
        else:
            mean = np.mean([v for v in values if v is not None], axis=0)
            out[key] = mean.tolist() if isinstance(mean, np.ndarray) else float(mean)
    out["by_seed"] = [row["accuracy_by_user"] for row in rows]
    return out
