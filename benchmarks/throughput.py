"""Comparisons a second in training on repeated items (persona), beside a plain loop that maps every comparison's items.

Run `python benchmarks/throughput.py`. Without the persona files it makes vectors of the same shape.
"""

import time

import numpy as np
import torch

import machine
import pal
from pal import TrainConfig
from pal._training.run import Run
from pal._training.tables import Tables
from pal.model import make_prototypes
from pal.training import model_config

K, PLAIN_BATCHES, BATCH = 3, (64, 4096), 262_144


def data() -> pal.EmbeddedComparisons:
    if machine.DATA.is_dir():
        table = pal.datasets.persona(machine.DATA / "persona", n_personas=K)
        return pal.embed(table, "all-MiniLM-L6-v2", store=True)
    population = pal.simulation.population(
        "b", n_users=3000, n_prototypes=K, dim=384, per_user=200, n_items=2, n_prompts=3000
    )
    return population.data


def ours(parts, map_kind: str, seconds: float = 8.0) -> float:
    config = TrainConfig(model="b", map=map_kind, batch_size=BATCH)
    shape = model_config(parts.train, config, K)
    run = Run(Tables.of(parts.train, parts.validation, shape, config), shape, config, None)
    n, steps = len(run.drawn.tables.answers), 0
    for warm in (True, False):
        began = time.perf_counter()
        steps = 0
        while time.perf_counter() - began < (1.0 if warm else seconds):
            order = torch.randperm(n, generator=run.generator)
            for low in range(0, n - BATCH + 1, BATCH):
                run._step(run.drawn, order[low : low + BATCH])
                steps += 1
    return steps * BATCH / (time.perf_counter() - began)


def plain(parts, map_kind: str, batch: int, seconds: float = 8.0) -> float:
    """The authors' way: embed, map and normalise the items of every comparison of a small batch; torch's Adam."""
    config = TrainConfig(model="b", map=map_kind)
    prototypes = make_prototypes(model_config(parts.train, config, K), torch.Generator().manual_seed(0))
    logits = torch.nn.Parameter(torch.zeros(len(parts.train.comparisons.user_ids), K))
    optimiser = torch.optim.Adam([*prototypes.parameters(), logits], lr=1e-4)
    table = parts.train.comparisons
    x, c = torch.from_numpy(parts.train.responses), torch.from_numpy(parts.train.prompts)
    left, right, prompt, user = (
        torch.from_numpy(a.astype(np.int64)) for a in (table.left, table.right, table.prompt, table.user)
    )
    label = torch.from_numpy(table.label.copy())
    order, done, began = torch.randperm(len(label)), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        rows = order[done % len(order) : done % len(order) + batch]
        w = torch.softmax(logits[user[rows]], dim=1)
        margin = prototypes.reward(c[prompt[rows]], x[left[rows]], w) - prototypes.reward(
            c[prompt[rows]], x[right[rows]], w
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(margin, label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        done += len(rows)
    return done / (time.perf_counter() - began)


def main() -> None:
    parts = data().split(unseen_users=0.0, test=0.05, validation=0.05)
    result = {}
    for kind in ("mlp", "linear"):
        fast = ours(parts, kind)
        result[kind] = {"ours": fast, "batch": BATCH}
        for batch in PLAIN_BATCHES:
            slow = plain(parts, kind, batch)
            result[kind] |= {f"plain_{batch}": slow, f"ratio_{batch}": fast / slow}
        print(kind, {k: round(v) for k, v in result[kind].items()}, flush=True)
    machine.write("throughput", result)


if __name__ == "__main__":
    main()
