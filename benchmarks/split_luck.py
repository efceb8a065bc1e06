"""How hard are the new people of the five splits of compare.py, beside those of other splits?

Run `python benchmarks/split_luck.py [NAME...] [--splits N] [--first N] [--models A,B] [--shots 0,5,20]`: accuracy by
user on new people, tested as compare.py tests them, of each split. Of what most people answered ("majority", the
default: it has nothing to fit) into benchmarks/results/split_luck.json, of other models into split_luck-MODELS.json.
"""

import argparse
from dataclasses import replace

import numpy as np

import machine
import pal
from compare import RESERVE, TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["bowling-green"], help=f"of {', '.join(TASKS)}")
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--models", default="majority", help="baselines, or pal")
    parser.add_argument("--shots", default="0")
    arguments = parser.parse_args()
    models, shots = arguments.models.split(","), [int(n) for n in arguments.shots.split(",")]
    seeds = range(arguments.first, arguments.first + arguments.splits)
    result = {name: luck(name, models, shots, seeds) for name in arguments.names}
    machine.write("split_luck" if models == ["majority"] else f"split_luck-{'-'.join(models)}", result)


def luck(name: str, models: list[str], shots: list[int], seeds: range) -> dict[str, object]:
    """Of each model and number of shots, accuracy by user on each split, and its mean."""
    load, ours, config = TASKS[name]
    data, found = load(), {model: {n: list[float]() for n in shots} for model in models}
    for seed in seeds:
        parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, seed=seed)
        for model, of_shots in found.items():
            given = replace(config, seed=seed, model=ours.removeprefix("pal-"))
            if model == "pal":
                fitted = pal.fit(parts.train, parts.validation, given).model
            else:
                fitted = pal.baselines.fit(model, parts.train, parts.validation, given)
            curve = pal.shot_curve(fitted, parts.unseen, shots=shots, seeds=1, reserve=RESERVE)
            for n, accuracy in zip(shots, curve["accuracy_by_user"], strict=True):
                of_shots[n].append(accuracy)
    for model, of_shots in found.items():
        for n, each in of_shots.items():
            error = np.std(each, ddof=1) if len(each) > 1 else np.nan
            print(f"{name}, {model}, {n} shots: {np.mean(each):.4f} on {len(each)} splits (one split: +-{error:.4f})")
    return {
        "seeds": [seeds.start, seeds.stop - 1],
        "accuracy_by_user": found,
        "mean": {model: {n: float(np.mean(each)) for n, each in of_shots.items()} for model, of_shots in found.items()},
    }


if __name__ == "__main__":
    main()
