"""How hard are the new people of the five splits of compare.py, beside those of other splits? What the majority gets.

Run `python benchmarks/split_luck.py [NAME...] [--splits N]`; writes benchmarks/results/split_luck.json: accuracy by
user of "what most people answered" on new people, tested as compare.py tests them, of each split.
"""

import argparse

import numpy as np

import machine
import pal
from compare import RESERVE, TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["bowling-green"], help=f"of {', '.join(TASKS)}")
    parser.add_argument("--splits", type=int, default=50)
    arguments = parser.parse_args()
    result = {}
    for name in arguments.names:
        data = TASKS[name][0]()
        found = []
        for seed in range(arguments.splits):
            parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, seed=seed)
            majority = pal.baselines.fit("majority", parts.train, parts.validation)
            curve = pal.shot_curve(majority, parts.unseen, shots=[0], seeds=1, reserve=RESERVE)
            found.append(curve["accuracy_by_user"][0])
        five, every = np.array(found[:5]), np.array(found)
        result[name] = {"accuracy_by_user": found, "mean_of_five": five.mean(), "mean": every.mean()}
        error = every.std(ddof=1)
        print(f"{name}: {five.mean():.4f} on five, {every.mean():.4f} on {len(every)} (one split: +-{error:.4f})")
    machine.write("split_luck", result)


if __name__ == "__main__":
    main()
