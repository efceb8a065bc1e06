"""Step time and memory against the number of users, 10^3, 10^5, 10^7, steps drawn from ten million answers.

Run `python benchmarks/users.py`; each size is a process of its own, since memory is that of a process. The sizes take
turns, and the fastest of each counts: other load slows one turn and not another.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import polars as pl
import torch

import machine
from pal import TrainConfig
from pal._training.run import Run
from pal._training.tables import Tables
from pal.model import ModelConfig
from pal.questions import Answers, Questions

SIZES, ANSWERS, QUESTIONS, DIM, K, BATCH = (10**3, 10**5, 10**7), 10**7, 3000, 384, 3, 8192
TURNS = 3


def tables(n_users: int) -> Tables:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2 * QUESTIONS, DIM, generator=generator)
    asked = torch.arange(QUESTIONS)
    questions = Questions(vectors, None, asked, asked + QUESTIONS, None)
    # everybody answers: none of the users' rows is idle
    user = torch.arange(ANSWERS) % n_users
    question = torch.randint(QUESTIONS, (ANSWERS,), generator=generator)
    label = torch.randint(2, (ANSWERS,), generator=generator).float()
    answers = Answers(user, question, label)
    val = answers.take(torch.arange(1000))
    return Tables(pl.int_range(n_users, eager=True), questions, answers, questions, val, True)


def memory() -> int:
    """Bytes of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(n_users: int, seconds: float = 10.0) -> dict[str, float]:
    torch.set_num_threads(1)
    shape = ModelConfig("a", K, "mlp", DIM, latent_dim=16, hidden_dim=64)
    config = TrainConfig(model="a", batch_size=BATCH)
    data = tables(n_users)
    _ = data.counts
    torch.randperm(ANSWERS, out=(order := torch.empty(ANSWERS, dtype=torch.long)))
    before = memory()
    run = Run(data, shape, config, None)
    times, low, began = [], 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        run._step(run.drawn, order[low : low + BATCH])
        times.append(time.perf_counter() - start)
        low = (low + BATCH) % (ANSWERS - BATCH)
    run._evaluate(0.0)
    run._evaluate(-1.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times.sort()
    return {
        "users": n_users,
        "step_ms": 1e3 * times[len(times) // 2],
        "peak": peak - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int, help="measure this number of users in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    turns = []
    for _ in range(TURNS):
        for n in SIZES:
            command = [sys.executable, __file__, "--one", str(n)]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            turns.append(json.loads(out.stdout.splitlines()[-1]))
            print(turns[-1], flush=True)
    rows = [min((turn for turn in turns if turn["users"] == n), key=lambda turn: turn["step_ms"]) for n in SIZES]
    for row in rows:
        row["ratio"] = row["step_ms"] / rows[0]["step_ms"]
        row["bytes_a_user"] = (row["peak"] - rows[0]["peak"]) / row["users"]  # over what any run takes
        print(row)
    machine.write("users", {"rows": rows, "allowed_bytes_a_user": 4 * (K + 2) * 4})


if __name__ == "__main__":
    main()
