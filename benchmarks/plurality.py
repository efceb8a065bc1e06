"""The plurality test: false alarms on homogeneous populations, power on populations drawn from a fit of real people.

Run `python benchmarks/plurality.py [homogeneous] [simulated] [power] [--populations N] [--prototypes 1,3]`, with
`--spread`, `--users` and `--answers` for other points of the curve of power; results go to
benchmarks/results/plurality-NAME.json, a population at a time, and a run goes on where it stopped. Draws
docs/images/power.png from all that are there (`--draw` does only this).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import machine
import pal
from pal import TrainConfig

USERS, ANSWERS = 200, 30


def bowling_green(k: int) -> tuple[pal.EmbeddedComparisons, pal.RewardModel]:
    """The conversation, and a fit of it with k prototypes."""
    folder = machine.DATA / "polis" / "american-assembly.bowling-green"
    data = pal.embed(pal.datasets.polis(folder), "all-MiniLM-L6-v2", store=True)
    return data, pal.fit(data, None, TrainConfig(n_prototypes=k)).model


def drawn(
    data: pal.EmbeddedComparisons, model: pal.RewardModel, seed: int, users: int, answers: int, spread: float = 1.0
) -> pal.EmbeddedComparisons:
    """People of the fit who answer random statements as it says they would; spread 0 makes them all the mean."""
    rng = np.random.default_rng(seed)
    people = model.users.take(rng.choice(len(model.users), users, replace=False))
    mean = model.users.weights.mean(0)
    people = replace(people, weights=mean + spread * (people.weights - mean), concentration=np.inf * people.reliability)
    one_each = data.take(np.unique(data.comparisons.prompt, return_index=True)[1])
    rows = np.concatenate([rng.choice(len(one_each), answers, replace=False) for _ in range(users)])
    asked = one_each.take(rows)
    table = replace(
        asked.comparisons,
        user=np.repeat(np.arange(users), answers).astype(asked.comparisons.user.dtype),
        user_ids=people.ids.cast(str),
    )
    asked = replace(asked, comparisons=table)
    named = replace(people, ids=people.ids.cast(str))
    p = model._with(users=named).predict(asked)
    return replace(asked, comparisons=replace(table, label=(rng.random(len(p)) < p).astype(np.float32)))


def simulated(seed: int, users: int, answers: int) -> pal.EmbeddedComparisons:
    """Paper E.1 with one ideal point for everybody, and noise."""
    return pal.simulation.population(
        "a", n_users=users, dim=16, per_user=answers, kind="homogeneous", noise=0.5, seed=seed
    ).data


def run(name: str, make: Callable[[int], pal.EmbeddedComparisons], n: int, prototypes: tuple[int, ...]) -> None:
    path = machine.RESULTS / f"plurality-{name}.json"
    rows: list[dict[str, Any]] = []
    if path.exists():
        rows = [r for r in json.loads(path.read_text())["result"]["populations"] if tuple(r["tried"]) == prototypes]
    for seed in range(len(rows), n):
        began = time.perf_counter()
        choice = pal.select(make(seed), prototypes, folds=3, seed=seed)
        rows.append(
            {
                "seed": seed,
                "tried": list(prototypes),
                "p_value": choice.p_value,
                "n_prototypes": choice.n_prototypes,
                "gain": choice.table["gain"].max(),
                "seconds": time.perf_counter() - began,
            }
        )
        found = sum(r["p_value"] <= 0.05 for r in rows)
        print(name, seed, f"p = {choice.p_value:.3f}: plural in {found} of {len(rows)}", flush=True)
        machine.write(path.stem, {"plural": found, "of": len(rows), "populations": rows})


def draw() -> None:
    """The curve of power: how often plurality is found, by how far people are from their mean and what they answer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.stats import binomtest

    points: dict[int, list[tuple[float, int, int]]] = {}
    for path in machine.RESULTS.glob("plurality-*.json"):
        name, result = path.stem.split("-")[1:], json.loads(path.read_text())["result"]
        answers, spread = (int(name[2]), float(name[3])) if len(name) == 4 else (ANSWERS, float(name[0] == "power"))
        users = int(name[1]) if len(name) == 4 else USERS
        if users == USERS and (name[0] == "power" or name == ["homogeneous"]):
            points.setdefault(answers, []).append((spread, result["plural"], result["of"]))
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    for shift, (answers, found) in enumerate(sorted(points.items())):
        spread, plural, of = (np.array(column) for column in zip(*sorted(found), strict=True))
        ranges = [binomtest(int(a), int(b)).proportion_ci(method="wilson") for a, b in zip(plural, of, strict=True)]
        share = plural / of
        bars = np.array([[x - r.low, r.high - x] for x, r in zip(share, ranges, strict=True)]).T
        axes.errorbar(
            spread + 0.012 * (shift - 1), share, bars.clip(0), marker="o", capsize=3, label=f"{answers} answers each"
        )
    axes.axhline(0.05, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("level of the test", (1.0, 0.06), ha="right", fontsize=8, color="grey")
    axes.set_xlabel("distance from the mean person (1: as fitted to bowling-green)")
    axes.set_ylabel("share of populations found plural")
    axes.set_title(f"{USERS} people; 95% intervals", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(machine.ROOT / "docs" / "images" / "power.png", dpi=130, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--populations", type=int, default=100)
    parser.add_argument("--prototypes", default="1,3")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--spread", type=float, default=1.0, help="of people around their mean, for the curve of power")
    parser.add_argument("--draw", action="store_true", help="only the picture")
    arguments = parser.parse_args()
    if arguments.draw:
        draw()
        return
    users, answers = arguments.users, arguments.answers
    prototypes = tuple(int(k) for k in arguments.prototypes.split(","))
    standard = (users, answers, arguments.spread) == (USERS, ANSWERS, 1.0)
    tag = "" if standard else f"-{users}-{answers}-{arguments.spread:g}"
    names = arguments.names or ["homogeneous", "simulated", "power"]
    if "simulated" in names:
        run(f"simulated{tag}", lambda s: simulated(s, users, answers), arguments.populations, prototypes)
    for name, k in (("homogeneous", 1), ("power", 5)):
        if name in names and Path(machine.DATA).is_dir():
            data, model = bowling_green(k)
            run(
                f"{name}{tag}",
                lambda s, d=data, m=model: drawn(d, m, s, users, answers, arguments.spread),
                arguments.populations,
                prototypes,
            )
    draw()


if __name__ == "__main__":
    main()
