"""Is calibration error more than chance would show? PAL on the splits of compare.py, each beside a perfect model.

Run `python benchmarks/calibration.py [NAME...] [--seeds N]`; writes benchmarks/results/calibration-NAME.json and, from
all that are there, the table of docs/benchmarks.md. For seen people, and for new ones after so many answers: ECE of
each split, what 97.5% of perfectly calibrated models stay below on its answers, and the slope of the log-odds that all
test answers together ask for (1 is right).
"""

import argparse
import json

import numpy as np
import torch

import machine
from compare import RESERVE, TASKS
from pal.baselines._pooled import Predicted, pooled_calibration
from pal.baselines.compare import _Plan
from pal.losses import sigmoid_slope

SHOTS = (0, 5, 20)


def slope(splits: list[Predicted]) -> float:
    """By which the log-odds of all these answers should be multiplied."""
    p = torch.from_numpy(np.concatenate([s.probability for s in splits])).double().clamp(1e-6, 1 - 1e-6)
    return sigmoid_slope(p.logit(), torch.from_numpy(np.concatenate([s.label for s in splits])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*TASKS], help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.names:
        load, ours, config = TASKS[name]
        plan = _Plan(load(), config, 0.2, SHOTS, 0.2, 0.1, RESERVE)
        runs = [plan.run(ours, seed).predicted for seed in range(arguments.seeds)]
        result = {}
        for key in runs[0]:
            splits = [run[key] for run in runs if key in run]
            ece, bound = zip(*(pooled_calibration([split]) for split in splits), strict=True)
            result[key.replace("shots_", "new, ")] = {
                "answers": [len(split.label) for split in splits],
                "ece": ece,
                "bound": bound,
                "within": sum(e <= b for e, b in zip(ece, bound, strict=True)),
                "slope": slope(splits),
            }
        machine.write(f"calibration-{name}", result)
    draw()


def draw() -> None:
    """docs/benchmarks.md's table, from the results that are there."""
    from compare_table import calibration, replace_part

    paths = {name: machine.RESULTS / f"calibration-{name}.json" for name in TASKS}
    there = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    replace_part(machine.ROOT / "docs" / "benchmarks.md", "calibration", calibration(there))


if __name__ == "__main__":
    main()
