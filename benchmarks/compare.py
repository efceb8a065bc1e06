"""PAL beside its peers on the same splits: Polis, UKPConvArg, persona, simulation.

Run `python benchmarks/compare.py [NAME...] [--seeds N] [--workers N]`: a data set at a time, each into
benchmarks/results/compare-NAME.json; then writes the table of docs/benchmarks.md and its picture from all that are
there (`--draw` does only this). With `--train-alone` PAL learns from training answers alone, as its peers do, and
validation answers only choose: into alone-NAME.json. With `--new-questions` the test, as validation, is on prompts that
training has not: into new-NAME.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import machine
import pal
from pal import TrainConfig
from quality import POLIS, embedded

PEERS = (
    *("majority", "btl-linear", "per-user", "per-user-quadratic", "metric"),
    *("lore", "user-embedding", "vpl", "factor", "btl"),
)
RIVALS = ("metric", "lore", "user-embedding", "vpl", "factor")  # of which the best is looked at
SHOTS, RESERVE = (0, 1, 2, 5, 10, 20, 50), 25
DRAWS = {"taxes": 20, "brexit": 20, "football": 20}  # of new people's answers, where they are 14 to 53 people a split


def polis(folder: str) -> pal.EmbeddedComparisons:
    return embedded(pal.datasets.polis(machine.DATA / "polis" / folder))


def persona(k: int, users: int) -> pal.EmbeddedComparisons:
    """30 answers a person: with 100 nearly every model that knows of users is right on nearly every answer."""
    folder = machine.DATA / "persona"
    return embedded(pal.datasets.persona(folder, n_personas=k, users_per_persona=users, answers=30))


def simulation(kind: str, noise: float = 0.5) -> pal.EmbeddedComparisons:
    """Paper E.3 with noise: d = 16, K* = 3, 120 people, 125 answers."""
    return pal.simulation.population("a", n_users=120, dim=16, per_user=125, kind=kind, noise=noise).data


LINEAR = TrainConfig(map="linear", latent_dim=16)
TASKS: dict[str, tuple[Callable[[], pal.EmbeddedComparisons], str, TrainConfig]] = {
    **{name: (lambda f=folder: polis(f), "pal-b", TrainConfig()) for name, folder in POLIS.items()},
    "ukpconvarg": (
        lambda: embedded(pal.datasets.ukpconvarg(machine.DATA / "ukpconvarg", min_answers=50)),
        "pal-b",
        TrainConfig(),
    ),
    "persona-3": (lambda: persona(3, 300), "pal-b", TrainConfig()),
    "persona-6": (lambda: persona(6, 200), "pal-b", TrainConfig()),
    "partition": (lambda: simulation("partition"), "pal-a", LINEAR),
    "mixture": (lambda: simulation("mixture"), "pal-a", LINEAR),
    "homogeneous": (lambda: simulation("homogeneous"), "pal-a", LINEAR),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], help="default: all that have no result yet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--train-alone", action="store_true", help="no last passes over validation answers")
    parser.add_argument("--new-questions", action="store_true", help="splits by prompt")
    parser.add_argument("--draw", action="store_true", help="only the table and the picture")
    arguments = parser.parse_args()
    there = {path.stem.removeprefix("compare-") for path in machine.RESULTS.glob("compare-*.json")}
    names = [] if arguments.draw else arguments.names or [name for name in TASKS if name not in there]
    for name in names:
        load, ours, config = TASKS[name]
        if name not in ("partition", "mixture", "homogeneous") and not machine.DATA.is_dir():
            print(f"{name}: skipped, the data are not beside the project (shared/data)")
            continue
        options = {"shots": SHOTS, "reserve": RESERVE, "workers": arguments.workers, "seeds": arguments.seeds}
        options["draws"] = DRAWS.get(name, 1)
        if arguments.train_alone:
            measure(f"alone-{name}", load(), [*RIVALS, ours], config=replace(config, refit=False), **options)
        elif arguments.new_questions:
            measure(f"new-{name}", load(), ["majority", *RIVALS, "btl", "pal"], config=config, by="prompt", **options)
        else:
            measure(f"compare-{name}", load(), [*PEERS, ours], config=config, **options)
    draw()


def measure(name: str, data: pal.EmbeddedComparisons, models: Sequence[str], **options: Any) -> None:
    """Compares models on data, writes benchmarks/results/NAME.json and prints a line a model."""
    began = time.perf_counter()
    rows = pal.baselines.compare(data, models, **options)
    machine.write(name, {"answers": len(data), "seconds": time.perf_counter() - began, "models": rows})
    for row in rows:
        print(name, row["model"], *(f"{row[k]:.4f}" for k in ("accuracy_by_user", "log_loss", "ece")), flush=True)


def draw() -> None:
    """docs/benchmarks.md's table and docs/images/compare.png, from the results that are there."""
    from compare_table import write

    def there(kind: str) -> dict[str, Any]:
        paths = {name: machine.RESULTS / f"{kind}-{name}.json" for name in TASKS}
        return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}

    write(there("compare"), there("alone"), there("new"), machine.ROOT / "docs")


if __name__ == "__main__":
    main()
