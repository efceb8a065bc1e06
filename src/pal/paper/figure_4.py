"""Figure 4 (E.1, E.3): model A on simulated populations, and each way in which the paper varies them."""

import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor

from pal.paper._batched import train
from pal.paper._experiment import Cell, Experiment
from pal.paper._figure_4_plots import figures
from pal.paper._figure_4_table import checks, table
from pal.paper._recipes import RECIPES, version
from pal.paper._simulated import Stack, accuracy, aligned, solved, unseen_accuracy
from pal.paper._stacks import Models

__all__ = ["EXPERIMENT"]

KINDS = ("partition", "mixture")
PICTURE = 6  # the seed whose ideal points are drawn: its f* is nearly a rotation, so that they can be told apart
UNSEEN = 100  # users whom training does not see
NEW_ANSWERS = (0, 5, 10, 20, 30, 40, 50, 100)  # of an unseen user (E.3), and none
BLOCK = 20_000_000  # numbers in a stack of training answers: bounds the memory

# what each scale runs. E.3 says n = 100 answers a user for (b) at first, later n = 50: (d) has both
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {
        "dims": (2, 16),
        "groups": {"k_true": (2, 3, 4, 5, 6), "k": (1, 2, 3, 4, 5, 6), "each": 50, "n": 100},
        "answers": {"k_true": 5, "k": (1, 2, 3, 4, 5, 6), "each": 50, "n": (20, 40, 60, 80, 100, 400, 800, 1000)},
        "unseen": {"k_true": 5, "k": (1, 5), "each": 50, "n": (50, 100)},
        "points": {"k_true": 3, "each": 50, "n": 100},
        "recipe": {"k_true": 3, "k": (1, 2, 3, 4, 5), "each": 50, "n": (20, 40, 60, 80, 100)},
    },
    "small": {
        "dims": (2, 16),
        "groups": {"k_true": (2, 3), "k": (1, 2, 3, 4), "each": 20, "n": 100},
        "answers": {"k_true": 3, "k": (1, 3), "each": 20, "n": (20, 100)},
        "unseen": {"k_true": 3, "k": (1, 3), "each": 20, "n": (100,)},
        "points": {"k_true": 3, "each": 20, "n": 100},
        "recipe": {"k_true": 3, "k": (1, 3), "each": 20, "n": (20, 100)},
    },
}


def cells(scale: str, seeds: int) -> list[Cell]:
    """A cell a model: "points" for (a), "seen" for (b) and (c), "unseen" for (d)."""
    settings, found = SETTINGS[scale], {}

    def add(what: str, kind: str, dim: int, s: dict[str, Any], k_true: int, k: int, n: int, seed: int) -> None:
        recipe = "paper" if what == "recipe" else "ours"
        cell = {
            "what": "seen" if what in ("groups", "answers", "recipe") else what,
            "kind": kind,
            "dim": dim,
            "k_true": k_true,
            "n_users": s["each"] * k_true,
            "per_user": n,
            "k": k,
            "seed": seed,
            "recipe": recipe,
            "version": version(recipe),
        }
        if what == "points":
            cell["picture"] = seed == PICTURE
        found[tuple(cell.values())] = cell

    for kind, dim, seed in product(KINDS, settings["dims"], range(seeds)):
        s = settings["groups"]
        for k_true, k in product(s["k_true"], s["k"]):
            add("groups", kind, dim, s, k_true, k, s["n"], seed)
        for what in ("answers", "unseen"):
            s = settings[what]
            for n, k in product(s["n"], s["k"]):
                add(what, kind, dim, s, s["k_true"], k, n, seed)
    s = settings["points"]
    for kind, seed in product(KINDS, sorted({*range(seeds), PICTURE})):
        add("points", kind, 2, s, s["k_true"], s["k_true"], s["n"], seed)
    s = settings["recipe"]
    for n, k, seed in product(s["n"], s["k"], range(seeds)):
        add("recipe", "mixture", 16, s, s["k_true"], k, n, seed)
    return list(found.values())


def run(missing: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells of one shape are trained at once, all their K on the same answers."""
    shapes: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in missing:
        names = ("what", "dim", "k_true", "n_users", "per_user", "recipe")
        shapes.setdefault(tuple(cell[name] for name in names), []).append(cell)
    for cells_of_shape in shapes.values():
        sets = sorted({(cell["kind"], cell["seed"]) for cell in cells_of_shape})
        first = cells_of_shape[0]
        most = max(1, BLOCK // (first["n_users"] * first["per_user"] * first["dim"]))
        for low in range(0, len(sets), most):
            block = sets[low : low + most]
            yield from _run([c for c in cells_of_shape if (c["kind"], c["seed"]) in block], block)


def _run(wanted: Sequence[Cell], sets: Sequence[tuple[str, int]]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    began = time.perf_counter()
    first = wanted[0]
    recipe, what = RECIPES[first["recipe"]], first["what"]
    kinds, seeds = [kind for kind, _ in sets], [seed for _, seed in sets]
    unseen, most = (UNSEEN, max(NEW_ANSWERS)) if what == "unseen" else (0, 0)
    data = Stack.of(
        kinds, seeds, first["dim"], first["k_true"], first["n_users"], first["per_user"], unseen=unseen, most=most
    )
    done = train(data.train, data.validation, first["dim"], [cell["k"] for cell in wanted], seeds, recipe)
    seconds = (time.perf_counter() - began) / len(wanted)
    for k, (models, loss) in done.items():
        # the paper's recipe ends with the weights that its training found
        weights = solved(models, data) if first["recipe"] == "ours" else models.weights[:, 0]
        right = accuracy(models, weights, data.test)
        for s, key in enumerate(sets):
            for cell in (c for c in wanted if c["k"] == k and (c["kind"], c["seed"]) == key):
                result: dict[str, Any] = {
                    "accuracy": float(right[s]),
                    "validation_loss": float(loss[s]),
                    "train_seconds": seconds,
                }
                if what == "unseen":
                    result["answers"] = list(NEW_ANSWERS)
                    result["unseen_accuracy"] = unseen_accuracy(models, data, s, NEW_ANSWERS)
                if what == "points":
                    result |= _points(models, weights, data, s, key[1])
                yield cell, result


def _points(models: Models, weights: Tensor, data: Stack, s: int, seed: int) -> dict[str, Any]:
    """How far learned ideal points are off, and where they are, for the picture."""
    learned, true, truth = aligned(models, weights, data, s).numpy(), data.truth[s].ideal_points, data.truth[s]
    off = np.median(np.linalg.norm(learned - true, axis=1)) / np.sqrt((true**2).sum(1).mean())
    result: dict[str, Any] = {"off": float(off)}
    if seed == PICTURE:
        points = {"learned": learned, "true": true, "prototypes": truth.prototypes @ truth.map.T}
        result |= {name: value.round(4).tolist() for name, value in points.items()}
        result["items"] = (truth.responses[:600] @ truth.map.T).round(3).tolist()
    return result


EXPERIMENT = Experiment(
    name="figure-4",
    what="Model A on simulated populations: ideal points found, and accuracy against K, answers a user, new users",
    data="simulated",
    minutes={"small": 0.5, "paper": 15.0},
    cells=cells,
    run=run,
    table=table,
    figures=figures,
    checks=checks,
)
