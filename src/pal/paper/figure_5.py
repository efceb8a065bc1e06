"""Figure 5 (E.2.1, E.5): accuracy on simulated people with personas, seen people (a-c) and unseen ones (d).

Model B, d = 16 where it is not varied. Besides accuracy there is balanced accuracy, "always no" (which accuracy alone
hides behind: 1 - 1 / (2 K*)), and in (b) and (d) an oracle that knows every persona's answers and is unsure only of who
has which: no model can be above it.

The settings of training are the library's (pooled start, growth, exact weights); the paper's (E.4: random start, Adam
at 1e-4, dropout 0.5, weight decay 1e-2) are run once beside them, panel "settings". The paper does not say which
statements people are asked; panel "reading" compares the readings (see `pal.paper._statements`, `pal.paper._persona`).
All else takes statements of the K* personas and tests on those that the person was not asked. Of "N/K" people a group
(E.2.1) and N (E.5) it takes N.
"""

import gc
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from pal.adaptation import adapt
from pal.evaluation import evaluate, metrics_of
from pal.model import RewardModel
from pal.paper._experiment import Cell, Experiment
from pal.paper._figure_5 import checks, figures, table
from pal.paper._persona import Cohort, draw
from pal.paper._statements import MADE, Statements, source_here
from pal.training import TrainConfig, train

__all__ = ["EXPERIMENT"]

# what each panel varies, by scale; the rest of a cell is BASE
BASE = {
    "small": {"people": 60, "answers": 60, "each": 100},
    "paper": {"people": 10_000, "answers": 1000, "each": 1000},
}
K_STAR = {"small": (2, 3), "paper": (2, 3, 4, 5, 6)}
K = range(1, 9)
ANSWERS = {"small": (2, 10), "paper": (2, 5, 25, 50, 75, 100, 200, 500)}
LATENT = {"small": (4, 16), "paper": (4, 8, 16, 32, 64)}
LATENT_K_STAR = (3, 6)  # at the paper's scale
SHOTS = {"small": (0, 1, 5, 20), "paper": (0, 1, 3, 5, 6, 9, 20, 50, 100)}
FULL_SEEDS = 1  # 10,000 people a group leave little to average: chance moves the fourth digit
ASIDE: dict[str, Cell] = {
    "small": {},
    "paper": {"people": 1000, "answers": 200},
}  # sizes of the panels "reading" and "settings"

SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {"max_steps": 800},  # K >= K* needs about 100; K < K* would inch on for thousands
    "paper": {
        "init": "random",
        "lr": 1e-4,
        "prototype_lr": 5e-3,
        "user_lr": 5e-3,
        "weight_decay": 1e-2,
        "dropout": 0.5,
        "uncertainty": False,
        "last_passes": 0,
        "max_epochs": 20,
        "patience": 1_000_000,
    },
}


def cells(scale: str, seeds: int) -> list[Cell]:
    """The settings of every row; ``of`` says what a person's answers are, the rest what is fitted to them."""
    rows = []
    for seed in range(seeds if scale == "small" else min(seeds, FULL_SEEDS)):
        base = {"statements": source_here(), **BASE[scale], "latent": 16, "reading": "own", "unseen": "pair"}
        base |= {"settings": "ours", "shots": None, "seed": seed}

        def row(panel: str, k_star: int, k: int, base: Cell = base, **change: Any) -> Cell:
            return {"panel": panel, "k_star": k_star, "k": k, **base, **change}

        for k_star in K_STAR[scale]:
            # at the small scale without 1 < K < K*, which trains longest
            rows += [row("a", k_star, k) for k in K if scale == "paper" or k in (1, k_star, k_star + 1)]
            rows += [row("b", k_star, k_star, answers=n) for n in ANSWERS[scale] if scale == "paper" or k_star == 3]
            rows += [row("d", k_star, k_star, shots=n) for n in SHOTS[scale] if scale == "paper" or k_star == 3]
        latent_k_star = LATENT_K_STAR if scale == "paper" else (3,)
        half: Cell = {"answers": 500} if scale == "paper" else {}
        rows += [row("c", k_star, k_star, latent=d, **half) for k_star in latent_k_star for d in LATENT[scale]]
        aside = ASIDE[scale]
        for reading, unseen in (("own", "pair"), ("said", "pair"), ("all", "pair"), ("own", "statement")):
            rows += [row("reading", 3, k, reading=reading, unseen=unseen, **aside) for k in (1, 3)]
        rows += [row("settings", 3, 3, settings=name, **aside) for name in SETTINGS]
    return rows


COHORT = ("statements", "each", "reading", "unseen", "k_star", "people", "seed")  # what people and questions hang on
TABLES = ("answers", "latent", "settings")  # and what is shared by models of several K


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Fits each distinct model once, whichever panels show it; people, tables and pooled models are shared."""
    for _, people in _grouped(todo, COHORT):
        cohort = _cohort(people)
        for _, same in _grouped(people, TABLES):
            yield from _models(cohort, same)
        del cohort
        gc.collect()


def _grouped(rows: list[Cell], names: tuple[str, ...]) -> Iterator[tuple[Any, list[Cell]]]:
    def key(row: Cell) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    return ((value, list(group)) for value, group in groupby(sorted(rows, key=key), key))


def _cohort(people: list[Cell], prefix: str = "seen", answers: int | None = None) -> Cohort:
    cell = people[0]
    statements = Statements.of(cell["k_star"], cell["reading"], cell["statements"], cell["each"])
    most = max(row["answers"] for row in people) if answers is None else answers
    return draw(statements, cell["people"], most, cell["seed"], prefix, cell["unseen"])


def _models(cohort: Cohort, same: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Models of several K on the same answers."""
    cell, probe, test = same[0], cohort.statements.probe, cohort.test
    tables = cohort.tables(cell["answers"])
    chosen = SETTINGS[cell["settings"]]
    config = TrainConfig(model="b", latent_dim=cell["latent"], refit=False, seed=cell["seed"], **chosen)
    began = time.perf_counter()
    # where prototypes grow they grow from the pooled model
    pooled = train(probe, probe, config, 1, None, None, tables)
    pooled_seconds = time.perf_counter() - began
    oracle = cohort.oracle(cell["answers"])
    sure = metrics_of(oracle, test.comparisons.label, test.comparisons.user, bootstrap=0)
    shared = {
        "comparisons": len(tables.answers),
        "always_no": float((test.comparisons.label == 0).mean()),
        "oracle": sure.accuracy,
        "oracle_balanced": sure.balanced_accuracy,
        **{f"pooled_{name}": value for name, value in _measured(evaluate(pooled.model, test, bootstrap=0)).items()},
    }
    for k, wanted in _grouped(same, ("k",)):
        began = time.perf_counter()
        if k == (1,):
            result, seconds = pooled, pooled_seconds
        else:
            start = None if config.init == "random" else pooled.model
            result = train(probe, probe, config, k[0], start, None, tables)
            seconds = time.perf_counter() - began + pooled_seconds
        seen = _measured(evaluate(result.model, test, bootstrap=0))
        for row in wanted:
            if row["shots"] is None:
                yield row, {**shared, **seen, "seconds": seconds}
        yield from _shots(result.model, [row for row in wanted if row["shots"] is not None], seconds)


def _shots(model: RewardModel, rows: list[Cell], seconds: float) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Unseen people, whose weights alone are learned."""
    if not rows:
        return
    most = max(row["shots"] for row in rows)
    people = _cohort(rows, "unseen", most)
    test = people.test
    for row in rows:
        few = people.comparisons(people.learned_from(row["shots"]))
        adapted = model.without_users(model.user_ids.to_list())
        if row["shots"]:
            adapted = adapted.with_users(adapt(model, few))
        sure = metrics_of(people.oracle(row["shots"]), test.comparisons.label, test.comparisons.user, bootstrap=0)
        result = {
            "comparisons": len(few),
            "always_no": float((test.comparisons.label == 0).mean()),
            "oracle": sure.accuracy,
            "oracle_balanced": sure.balanced_accuracy,
        }
        yield row, {**result, **_measured(evaluate(adapted, test, bootstrap=0)), "seconds": seconds}


def _measured(metrics: Any) -> dict[str, float]:
    return {name: getattr(metrics, name) for name in ("accuracy", "balanced_accuracy", "worst_tenth", "log_loss")}


EXPERIMENT = Experiment(
    name="figure-5",
    what="people with personas: accuracy against K, answers a person, latent size, answers of unseen people",
    data=f"../shared/data/persona with all-MiniLM-L6-v2; statements {MADE} where it is absent",
    minutes={"small": 0.4, "paper": 50.0},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
