"""A fit on two workers of one thread each beside one process of one thread, every comparison having its own items.

Run `python benchmarks/ray_fit.py [--pairs N] [--repeats R]`: pairs of 768-dimensional items, model A with maps of
590,000 parameters (the paper's Summary size), 1,000 people. Rounds alternate, each in processes of its own, so that
what else the machine does falls on both. Comparisons a second are those of the median step (with the evaluation of
400 pairs after it), since other work on the machine comes in bursts; seconds are of the whole call, starting Ray and
sharing out the data included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

import machine
import pal
from pal import TrainConfig
from unique import BATCH, DIM, HIDDEN, LATENT, K, data


def one_round(workers: int, pairs: int, steps: int) -> dict[str, float]:
    """A fit, in this process or in workers."""
    torch.set_num_threads(1)
    parts = data(pairs).split(unseen_users=0.0, test=0.0, validation=0.002)
    config = TrainConfig(
        model="a", latent_dim=LATENT, hidden_dim=HIDDEN, n_prototypes=K, init="random", batch_size=BATCH,
        max_steps=steps, eval_every=1, patience=steps, refit=False,
    )  # fmt: skip
    began = time.perf_counter()
    if workers == 1:
        result = pal.fit(parts.train, parts.validation, config)
    else:
        from pal import distributed

        result = distributed.fit(parts.train, parts.validation, config, workers=workers, threads=1)
    step = float(np.median(np.diff(result.history["seconds"].to_numpy())))
    return {
        "comparisons_per_second": round(BATCH / step),
        "over_the_whole_loop": round(result.metrics["comparisons_per_second"]),
        "loop_seconds": round(result.metrics["seconds"], 1),
        "seconds": round(time.perf_counter() - began, 1),
        "validation_log_loss": result.metrics["validation_log_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--round", type=int, help="Only one round, with so many workers; prints JSON.")
    options = parser.parse_args()
    if options.round:
        print(json.dumps(one_round(options.round, options.pairs, options.steps)))
        return
    rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    sizes = ["--pairs", str(options.pairs), "--steps", str(options.steps)]
    for _ in range(options.repeats):
        for workers, found in rounds.items():
            load = os.getloadavg()[0]
            command = [sys.executable, __file__, *sizes, "--round", str(workers)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found.append({**json.loads(run.stdout.splitlines()[-1]), "load_before": round(load, 1)})
            print(f"{workers} x 1 thread: {found[-1]}", flush=True)
    speed = {k: [row["comparisons_per_second"] for row in found] for k, found in rounds.items()}
    ratios = [round(two / one, 2) for one, two in zip(speed[1], speed[2], strict=True)]
    ratio = round(statistics.median(ratios), 2)
    print(f"ratio {ratio} (rounds: {ratios})")
    machine.write(
        "ray_fit",
        {
            "pairs": options.pairs,
            "dimension": DIM,
            "parameters": DIM * HIDDEN + HIDDEN + HIDDEN * LATENT + LATENT + DIM * LATENT,
            "one_process": rounds[1],
            "two_workers": rounds[2],
            "ratio": ratio,
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
