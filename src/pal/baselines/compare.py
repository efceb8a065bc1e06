"""Models side by side on the same splits."""

import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pal._checks import whole
from pal.baselines._pooled import Predicted, pooled_calibration, pooled_difference, pooled_intervals
from pal.baselines.names import BASELINES, Baseline, fitted
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError
from pal.evaluation import evaluate, predict, shot_models
from pal.selection import fit as fit_pal
from pal.training import TrainConfig, config_of

__all__ = ["compare"]

PAL = {"pal": None, "pal-a": "a", "pal-b": "b"}  # None: as the config says, or validation
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
    *,
    reference: str | None = None,
    reserve: int | None = None,
    draws: int = 1,
    by: str = "comparison",
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Fits every model on the same splits.

    Args:
        data: all comparisons.
        names: of baselines, "pal" (the model that `pal.fit` takes), "pal-a" or "pal-b".
        config: of PAL and of the maps that `btl` shares with it.
        seeds: splits and runs.
        unseen_users: share of people kept apart as new.
        shots: numbers of answers of new people; people with too few (`reserve` or less) are left out.
        test: share of each other person's answers for the test.
        validation: likewise.
        reference: the model that differences are from; None: the last one.
        reserve: answers of each new person that shots are drawn from; None: the largest number of shots. Where some
            shots are more, there is a second curve, of people who have answered more than the most shots.
        draws: of the answers that are shown of new people and those that they are tested on. With few new people one
            draw says little: among 20 of them accuracy after 5 answers differs by .03 from one to the next.
        by: what the parts of a split do not share, as of `EmbeddedComparisons.split`: "prompt" tests on prompts that
            no model has learned from.
        workers: processes. Each fits one model on one split at a time, with its share of the cores; numbers can differ
            in the last digits from those of another number of threads.

    Returns:
        A row a model: means over seeds of each measure on test answers of seen people; `intervals`, the 95% interval
        of each but ECE (by bootstrap over people, a person's answers of all splits together), and `interval`, that of
        accuracy_by_user; `by_seed`, accuracy_by_user of each; `shots_N` and `long_N`, accuracy by user on new people
        (None where nobody has enough answers), the second on those of the second curve; `difference`, accuracy by user
        of the reference minus this one's, with its interval over people, paired and pooled over seeds, and
        `new_difference`, the same by shots; `rise`, by shots, accuracy over that at the fewest shots, with its
        interval; `calibration`, for seen people and by shots: ECE, and what 97.5% of perfectly calibrated models would
        stay below on these answers (of the first draw: those of several are not independent); `n_prototypes` of each
        seed; seconds of a fit.

    Raises:
        InputError: an unknown name, or no model, seed or worker.
    """
    check_embedded(data)
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"names must be a list of models, found {names!r}: write [{names!r}]")
    names = list(names)
    if not isinstance(shots, Iterable):
        raise InputError(f"shots must be a list of numbers of answers, found {shots!r}")
    if not test:
        raise InputError("test=0 leaves nothing to compare on: give a share above 0")
    reserve = None if reserve is None else whole("reserve", reserve, least=0)
    known = [*sorted(BASELINES), *PAL]
    for name in [*names, *([] if reference is None else [reference])]:
        if name not in known:
            raise InputError(f"model {name!r} is not known: use some of {', '.join(known)}")
    if not names:
        raise InputError("give at least one model")
    whole("seeds", seeds)
    whole("workers", workers)
    whole("draws", draws)
    reference = names[-1] if reference is None else reference
    if reference not in names:
        raise InputError(f"the reference {reference!r} is not among the models: add it to them")
    names = list(dict.fromkeys(names))
    shots = tuple(sorted({whole("shots", n, least=0) for n in shots}))
    plan = _Plan(data, config_of(config), unseen_users, shots, test, validation, reserve, draws, by)
    tasks = [(name, seed) for seed in range(seeds) for name in names]
    results = dict(zip(tasks, _run(plan, tasks, workers), strict=True))
    compared = [results[reference, seed] for seed in range(seeds)]
    return [_row(name, [results[name, seed] for seed in range(seeds)], compared) for name in names]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What all runs of a comparison share."""

    data: EmbeddedComparisons
    config: TrainConfig
    unseen_users: float
    shots: tuple[int, ...]
    test: float
    validation: float
    reserve: int | None
    draws: int
    by: str

    def run(self, name: str, seed: int) -> "_Result":
        """One model on one split."""
        shares = {"unseen_users": self.unseen_users, "test": self.test, "validation": self.validation}
        parts = self.data.split(**shares, by=self.by, seed=seed)
        config = replace(self.config, seed=seed)
        began = time.perf_counter()
        model: Baseline
        if name in PAL:
            model = fit_pal(parts.train, parts.validation, replace(config, model=PAL[name] or config.model)).model
        else:
            model = fitted(name, parts.train, parts.validation, config)
        values: dict[str, Any] = {"seconds": time.perf_counter() - began}
        metrics = evaluate(model, parts.test, bootstrap=0)
        values |= {key: getattr(metrics, key) for key in _MEASURES}
        values["n_prototypes"] = getattr(getattr(model, "config", None), "n_prototypes", None)
        values |= {f"{name}_{n}": None for name, (_, shots) in self._curves().items() for n in shots}
        seen = [_predicted(predict(model, parts.test), parts.test)]
        drawn = {"seen": seen, **self._curve(model, parts.unseen)}
        predicted = {key: Predicted.joined(each) for key, each in drawn.items()}
        for key, each in predicted.items():
            if key != "seen":
                values[key] = float(np.nanmean(each.accuracy()))
        return _Result(values, predicted, {key: each[0] for key, each in drawn.items()})

    def _curve(self, model: Baseline, unseen: EmbeddedComparisons) -> dict[str, list[Predicted]]:
        """Predictions of each draw for new people, by number of shots; none where nobody has enough answers."""
        out: dict[str, list[Predicted]] = {}
        for name, (reserve, shots) in self._curves().items():
            if unseen.comparisons.user_counts().max(initial=0) > reserve:
                for _, n, test, knowing in shot_models(model, unseen, shots, self.draws, reserve):
                    out.setdefault(f"{name}_{n}", []).append(_predicted(predict(knowing, test), test))
        return out

    def _curves(self) -> dict[str, tuple[int, list[int]]]:
        """The curves by name: answers that are drawn from, and numbers of shots."""
        if not self.shots:
            return {}
        longest = max(self.shots)
        reserve = longest if self.reserve is None else self.reserve
        curves = {"shots": (reserve, [n for n in self.shots if n <= reserve]), "long": (longest, list(self.shots))}
        return {k: v for k, v in curves.items() if v[1] and (k == "shots" or longest > reserve)}


@dataclass(frozen=True, eq=False)
class _Result:
    values: dict[str, Any]
    predicted: dict[str, Predicted]  # "seen" and "shots_N"
    first: dict[str, Predicted]  # the same, of the first draw


def _predicted(probability: npt.NDArray[Any], data: EmbeddedComparisons) -> Predicted:
    table = data.comparisons
    return Predicted(probability, table.label, table.user, len(table.user_ids), table.sided)


def _run(plan: _Plan, tasks: list[tuple[str, int]], workers: int) -> list[_Result]:
    if workers == 1:
        return [plan.run(*task) for task in tasks]
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), _begin, (plan, threads)
    ) as pool:
        return list(pool.map(_work, tasks))


_plan: _Plan | None = None  # of this worker: sent once, not with every task


def _begin(plan: _Plan, threads: int) -> None:
    global _plan
    torch.set_num_threads(threads)
    _plan = plan


def _work(task: tuple[str, int]) -> _Result:
    if _plan is None:
        raise TypeError("a worker begins with its plan")
    return _plan.run(*task)


def _row(name: str, results: list[_Result], reference: list[_Result]) -> dict[str, Any]:
    out: dict[str, Any] = {"model": name}
    for key in results[0].values:
        values = [result.values[key] for result in results]
        given = [value for value in values if value is not None]
        if key == "n_prototypes":
            out[key] = values
        elif not given:
            out[key] = None
        else:
            mean = np.mean(given, axis=0)
            out[key] = mean.tolist() if isinstance(mean, np.ndarray) else float(mean)
    keys = [key for key in results[0].values if key.startswith(("shots_", "long_"))]
    for key in ["seen", *keys]:
        both = [
            (r.predicted[key], o.predicted[key]) for r, o in zip(reference, results, strict=True) if key in o.predicted
        ]
        if not both:
            continue
        others, own = zip(*both, strict=True)
        difference, intervals = pooled_difference(others, own), pooled_intervals(own)
        once = [result.first[key] for result in results if key in result.first]
        out.setdefault("calibration", {})[key] = pooled_calibration(once)
        if key == "seen":
            out["intervals"], out["difference"] = intervals, difference
            out["interval"] = intervals.get("accuracy_by_user", [float("nan")] * 2)
        else:
            out["intervals"][key] = intervals.get("accuracy_by_user", [float("nan")] * 2)
            out.setdefault("new_difference", {})[key] = difference
            fewest = next(k for k in keys if k.split("_")[0] == key.split("_")[0])
            first = [result.predicted[fewest] for result in results if key in result.predicted]
            out.setdefault("rise", {})[key] = pooled_difference(own, first)
    out["by_seed"] = [result.values["accuracy_by_user"] for result in results]
    return out
