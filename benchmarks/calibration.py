"""Is calibration error more than chance would show? PAL on the splits of compare.py, each beside a perfect model.

Run `python benchmarks/calibration.py [NAME...] [--seeds N]`; writes benchmarks/results/calibration-NAME.json. For seen
people, and for new ones after so many answers: ECE of each split, what 97.5% of perfectly calibrated models stay below
on its answers, and the slope of the log-odds that all test answers together ask for (1 is right).
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import machine
import pal
from compare import RESERVE, TASKS
from pal.baselines._pooled import Predicted, pooled_calibration
from pal.evaluation import shot_predictions
from pal.losses import sigmoid_slope

SHOTS = (0, 5, 20)


def predictions(name: str, seed: int) -> Iterator[tuple[str, Predicted]]:
    """Test answers of seen people and of new ones, as a model of one split predicts them."""
    load, ours, config = TASKS[name]
    parts = load().split(unseen_users=0.2, test=0.2, validation=0.1, seed=seed)
    model = pal.fit(parts.train, parts.validation, replace(config, seed=seed, model=ours[-1])).model
    yield "seen", predicted(parts.test, pal.predict(model, parts.test))
    for _, shots, test, probability in shot_predictions(model, parts.unseen, SHOTS, 1, RESERVE):
        yield f"new, {shots}", predicted(test, probability)


def predicted(data: pal.EmbeddedComparisons, probability: Any) -> Predicted:
    table = data.comparisons
    return Predicted(probability, table.label, table.user, len(table.user_ids), table.sided)


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
        found: dict[str, list[Predicted]] = {}
        for seed in range(arguments.seeds):
            for key, each in predictions(name, seed):
                found.setdefault(key, []).append(each)
        result = {}
        for key, splits in found.items():
            both = [pooled_calibration([split]) for split in splits]
            within = sum(ece <= bound for ece, bound in both)
            result[key] = {
                "answers": [len(split.label) for split in splits],
                "ece": [ece for ece, _ in both],
                "bound": [bound for _, bound in both],
                "within": within,
                "slope": slope(splits),
            }
            print(name, key, f"{within} of {len(splits)} within, slope {result[key]['slope']:.2f}", flush=True)
        machine.write(f"calibration-{name}", result)


if __name__ == "__main__":
    main()
