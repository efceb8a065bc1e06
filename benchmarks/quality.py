"""How well the defaults predict, and how long `pal.fit` takes: simulation, persona, Polis, UKPConvArg.

Run `python benchmarks/quality.py [NAME...] [--seeds N]`; writes benchmarks/results/quality-NAME.json.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import machine
import pal
from pal import TrainConfig
from pal.evaluation import paired_difference

POLIS = {
    "bowling-green": "american-assembly.bowling-green",
    "taxes": "scoop-hivemind.taxes",
    "brexit": "brexit-consensus",
    "football": "football-concussions",
}


def embedded(comparisons: pal.Comparisons) -> pal.EmbeddedComparisons:
    return pal.embed(comparisons, "all-MiniLM-L6-v2", store=True)


def simulation(seed: int) -> dict[str, Any]:
    """Paper E.3: d = 16, K* = 3, partition; 90 + 10 pairs a person to learn from, 50 to test on."""
    data = pal.simulation.population("a", n_users=100, n_prototypes=3, dim=16, per_user=150, seed=seed).data
    place = np.tile(np.arange(150), 100)
    train, validation, test = (data.take(m) for m in (place < 90, (place >= 90) & (place < 100), place >= 100))
    return measure(train, validation, test, None, TrainConfig(model="a", map="linear", n_prototypes=3, seed=seed))


def persona(k: int) -> Callable[[int], dict[str, Any]]:
    def run(seed: int) -> dict[str, Any]:
        table = pal.datasets.persona(
            machine.DATA / "persona", n_personas=k, users_per_persona=1000, answers=200, seed=seed
        )
        parts = embedded(table).split(unseen_users=0.0, test=0.1, validation=0.05, seed=seed)
        return measure(parts.train, parts.validation, parts.test, None, TrainConfig(n_prototypes=k, seed=seed))

    return run


def real(load: Callable[[], pal.Comparisons]) -> Callable[[int], dict[str, Any]]:
    def run(seed: int) -> dict[str, Any]:
        parts = embedded(load()).split(unseen_users=0.2, test=0.2, validation=0.1, seed=seed)
        return measure(parts.train, parts.validation, parts.test, parts.unseen, TrainConfig(seed=seed))

    return run


TASKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "simulation": simulation,
    "persona-3": persona(3),
    "persona-6": persona(6),
    **{name: real(lambda f=folder: pal.datasets.polis(machine.DATA / "polis" / f)) for name, folder in POLIS.items()},
    "ukpconvarg": real(lambda: pal.datasets.ukpconvarg(machine.DATA / "ukpconvarg", min_answers=50)),
}


def measure(train: Any, validation: Any, test: Any, unseen: Any, config: TrainConfig) -> dict[str, Any]:
    began = time.perf_counter()
    result = pal.fit(train, validation, config)
    row: dict[str, Any] = {"fit_seconds": time.perf_counter() - began, "n_prototypes": result.model.n_prototypes}
    models = {"pal": result.model, "btl": result.pooled}
    for name in ("btl-linear", "per-user", "majority"):
        models[name] = pal.baselines.fit(name, train, validation, replace(config, n_prototypes=1))
    for name, model in models.items():
        metrics = pal.evaluate(model, test, bootstrap=200)
        keys = ("accuracy", "accuracy_by_user", "balanced_accuracy", "worst_tenth", "log_loss", "ece")
        row[name] = {key: getattr(metrics, key) for key in keys}
    row["difference"] = paired_difference(result.model, result.pooled, test)
    if unseen is not None:
        for name in ("pal", "btl"):
            curve = pal.shot_curve(models[name], unseen, shots=[0, 5, 20], reserve=25)
            row[name]["shots"] = dict(zip(map(str, curve["shots"]), curve["accuracy_by_user"], strict=True))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], help="default: all")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.names or TASKS:
        if name != "simulation" and not machine.DATA.is_dir():
            print(f"{name}: skipped, the data are not beside the project (shared/data)")
            continue
        rows = [TASKS[name](seed) for seed in range(arguments.seeds)]
        key = (
            "balanced_accuracy"
            if name.startswith("persona")
            else "accuracy"
            if name == "simulation"
            else "accuracy_by_user"
        )
        mean = {
            model: float(np.mean([row[model][key] for row in rows]))
            for model in ("pal", "btl", "btl-linear", "per-user", "majority")
        }
        shots = {}
        if "shots" in rows[0]["pal"]:
            shots = {
                m: {n: float(np.mean([r[m]["shots"][n] for r in rows])) for n in rows[0][m]["shots"]}
                for m in ("pal", "btl")
            }
        summary = {
            "measure": key,
            "mean": mean,
            "shots": shots,
            "fit_seconds": float(np.mean([r["fit_seconds"] for r in rows])),
        }
        summary["difference"] = np.mean([r["difference"] for r in rows], axis=0).tolist()
        summary["n_prototypes"] = [r["n_prototypes"] for r in rows]
        print(name, summary, flush=True)
        machine.write(f"quality-{name}", {"summary": summary, "seeds": rows})


if __name__ == "__main__":
    main()
