"""Where training starts: grown from the pooled model, or at random as the paper; the spread over seeds of training.

Run `python benchmarks/starts.py`; one split of each data set, five seeds of training; benchmarks/results/starts.json.
"""

from dataclasses import replace
from typing import Any

import numpy as np

import machine
import pal
from compare import LINEAR, persona, polis, simulation
from pal import TrainConfig
from quality import POLIS


def main() -> None:
    sets: dict[str, tuple[Any, TrainConfig]] = {
        "partition": (lambda: simulation("partition"), replace(LINEAR, n_prototypes=3)),
        "persona-6": (lambda: persona(6, 200), TrainConfig(n_prototypes=6)),
        "taxes": (lambda: polis(POLIS["taxes"]), TrainConfig(n_prototypes=5)),
    }
    result = {}
    for name, (load, config) in sets.items():
        parts = load().split(unseen_users=0.0, test=0.2, validation=0.1, seed=0)
        result[name] = {}
        for init in ("grow", "random"):
            found = []
            for seed in range(5):
                model = pal.fit(parts.train, parts.validation, replace(config, init=init, seed=seed)).model
                metrics = pal.evaluate(model, parts.test, bootstrap=0)
                found.append((metrics.accuracy_by_user, metrics.balanced_accuracy, metrics.log_loss))
            mean, sd = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            names = ("accuracy_by_user", "balanced_accuracy", "log_loss")
            result[name][init] = {key: [float(m), float(s)] for key, m, s in zip(names, mean, sd, strict=True)}
            print(name, init, {k: f"{m:.4f} +- {s:.4f}" for k, (m, s) in result[name][init].items()}, flush=True)
    machine.write("starts", {"mean_and_sd_of_5_seeds": result})


if __name__ == "__main__":
    main()
