"""Training where every comparison has items of its own: FLOP a second beside the machine's own GEMM rate.

Run `python benchmarks/unique.py [--pairs N]`: pairs of 768-dimensional items, model A with maps of 590,000 parameters
(the paper's Summary size), rows gathered from the table in random order. Work counted: the products of the map alone.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

import machine
import pal
from pal import TrainConfig
from pal._training.run import Run
from pal._training.tables import Tables
from pal.training import model_config

DIM, HIDDEN, LATENT, K, BATCH = 768, 750, 16, 3, 8192


def data(pairs: int) -> pal.EmbeddedComparisons:
    rng = np.random.default_rng(0)
    table = pal.Comparisons.from_columns(
        user_id=rng.integers(0, 1000, pairs),
        left_id=np.arange(pairs),
        right_id=np.arange(pairs, 2 * pairs),
        label=rng.integers(0, 2, pairs).astype(np.float32),
    )
    return pal.embed(table, embeddings=(np.arange(2 * pairs), rng.standard_normal((2 * pairs, DIM), dtype=np.float32)))


def gemm_rate(kind: torch.dtype = torch.float32, seconds: float = 3.0) -> float:
    """FLOP a second of (2 BATCH, DIM) x (DIM, HIDDEN)."""
    a, b = torch.randn(2 * BATCH, DIM).to(kind), torch.randn(DIM, HIDDEN).to(kind)
    out = torch.mm(a, b)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(a, b, out=out)
        done += 1
    return done * 2 * a.numel() * HIDDEN / (time.perf_counter() - began)


def work(run: Run) -> float:
    """FLOP of a pair: products of the map forward, and backward to its parameters and through its second layer."""
    matrices = [p.numel() for p in run.prototypes.f.parameters() if p.ndim > 2 or (p.ndim == 2 and min(p.shape) > 1)]
    return 2 * (4 * sum(matrices) + 2 * HIDDEN * LATENT)


def ours(tables: Tables, shape, config: TrainConfig, seconds: float = 12.0) -> tuple[float, float]:
    """Pairs a second, and the FLOP of one."""
    run = Run(tables, shape, config, None)
    n = len(run.drawn.tables.answers)
    for warm in (True, False):
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < (1.0 if warm else seconds):
            order = torch.randperm(n, generator=run.generator)
            for low in range(0, n - BATCH + 1, BATCH):
                run._step(run.drawn, order[low : low + BATCH])
                steps += 1
                if time.perf_counter() - began > seconds:
                    break
    return steps * BATCH / (time.perf_counter() - began), work(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200_000)
    arguments = parser.parse_args()
    config = TrainConfig(model="a", map="mlp", latent_dim=LATENT, hidden_dim=HIDDEN, batch_size=BATCH)
    all_of_it = data(arguments.pairs)
    parts = all_of_it.split(unseen_users=0.0, test=0.0, validation=0.01)
    shape = model_config(parts.train, config, K)
    tables = Tables.of(parts.train, parts.validation, shape, config)
    result = {}
    for precision, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        before = gemm_rate(kind)
        pairs, flop = ours(tables, shape, replace(config, precision=precision))
        rate = (before + gemm_rate(kind)) / 2
        result[precision] = {
            "pairs": pairs,
            "flop": flop,
            "ours": pairs * flop,
            "gemm": rate,
            "ratio": pairs * flop / rate,
        }
        print(precision, {k: f"{v:.4g}" for k, v in result[precision].items()}, flush=True)
    machine.write("unique", result)


if __name__ == "__main__":
    main()
