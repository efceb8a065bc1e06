"""Rewards of 1,000 responses for a million users from cached prototype rewards, in memory and to parquet.

Run `python benchmarks/scoring.py [--users N]`. Beside them in the same run: numpy's product of the same shape into a
buffer, and a bare parquet write of the same array in row groups as large as ours. Before each write the last is removed
and the disk done with it: a write that finds the cache full waits for the one before.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

import machine
import pal
from pal.scoring import PART, rewards_of_users, write_rewards
from pal.users import UserWeights

RESPONSES, K = 1000, 6


def model(n_users: int) -> pal.RewardModel:
    population = pal.simulation.population("a", n_users=50, n_prototypes=K, dim=16, per_user=20)
    fitted = pal.fit(population.data, None, pal.TrainConfig(n_prototypes=K, max_steps=10)).model
    weights = torch.distributions.Dirichlet(torch.ones(K)).sample((n_users,))
    ids = pl.int_range(n_users, eager=True)
    users = UserWeights(ids, weights, torch.ones(n_users, dtype=torch.long), torch.ones(n_users))
    return pal.RewardModel(fitted.config, fitted.prototypes, users, fitted.prior)


def best(run: Callable[[], object], times: int = 3, before: Callable[[], object] = lambda: None) -> float:
    seconds = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10**6)
    n = parser.parse_args().users
    fitted, cached = model(n), torch.randn(RESPONSES, K)
    weights, columns = fitted.users.weights.numpy(), np.ascontiguousarray(cached.numpy().T)
    buffer = np.zeros((n, RESPONSES), dtype=np.float32)
    numpy = best(lambda: np.matmul(weights, columns, out=buffer))
    out = torch.from_numpy(buffer)
    ours = best(lambda: rewards_of_users(fitted, cached, out=out))
    result = {"users": n, "memory": {"ours": ours, "numpy": numpy, "ratio": ours / numpy}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "written"

        def clear() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()
            folder.mkdir()

        def bare() -> None:
            frame = pl.DataFrame({"rewards": pl.Series(buffer, dtype=pl.Array(pl.Float32, RESPONSES))})
            frame.write_parquet(folder / "bare.parquet", compression="uncompressed", row_group_size=PART)

        pairs = [
            (best(bare, 1, clear), best(lambda: write_rewards(fitted, cached, folder), 1, clear)) for _ in range(4)
        ]
        reference, parquet = (min(times) for times in zip(*pairs, strict=True))
        result["parquet"] = {"ours": parquet, "bare": reference, "ratio": parquet / reference, "pairs": pairs}
    print(result)
    machine.write("scoring", result)


if __name__ == "__main__":
    main()
