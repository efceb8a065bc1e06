"""Answers of simulated people by rewards of several shapes, that tests of the peers share."""

from dataclasses import replace

import numpy as np
import polars as pl

from pal.comparisons import Items
from pal.embeddings import EmbeddedComparisons
from pal.testing import tiny


def simulated(reward, users=40, per_user=120, items=60, dim=4, prompts=0, seed=0, noise=0.0):
    """Answers of users to random pairs of items, by rewards (N, I), or (N, I) of prompts to one pair of responses.

    `reward` takes the vectors (I, dim), a generator and N.
    """
    rng = np.random.default_rng(seed)
    n = users * per_user
    x = rng.normal(size=(items, dim)).astype(np.float32)
    value = reward(x.astype(float), rng, users)
    user = np.arange(n, dtype=np.int32) % users
    left = rng.integers(items, size=n).astype(np.int32)
    right = ((left + rng.integers(1, items, size=n)) % items).astype(np.int32)
    margin = value[user, left] - value[user, right]
    if prompts:
        margin, prompt = value[user, left], left
        left, right = np.zeros(n, np.int32), np.ones(n, np.int32)
    label = (rng.random(n) < 1 / (1 + np.exp(-margin))).astype(np.float32)
    base = tiny(8, users=1, responses=2).comparisons

    def table(kind, count):
        return Items(pl.Series("id", [f"{kind}{i}" for i in range(count)]), None, "id")

    votes = table("r", 2), table("p", items)
    comparisons = replace(
        base,
        user=user,
        left=left,
        right=right,
        prompt=prompt if prompts else None,
        label=label,
        user_ids=pl.Series("user_id", [f"u{i}" for i in range(users)]),
        responses=votes[0] if prompts else table("r", items),
        prompts=votes[1] if prompts else None,
    )
    two = rng.normal(size=(2, dim)).astype(np.float32)
    data = EmbeddedComparisons(comparisons, two if prompts else x, x if prompts else None)
    return data, margin, x


def linear(x, rng, n):
    return 0.5 * x[:, 0] + 2 * rng.normal(size=(n, x.shape[1])) @ x.T


def ideal_points(x, rng, n):
    """A metric of rank two out of four, and a point for each."""
    factor = np.array([[1.5, 0], [0, 1.0], [0.0, 0], [0, 0]])
    points = 1.5 * rng.normal(size=(n, 2))
    return -np.square((x @ factor)[None] - points[:, None]).sum(2)


def low_rank(x, rng, n):
    weights = rng.dirichlet(0.3 * np.ones(3), n)
    return weights @ (4 * rng.normal(size=(3, x.shape[1]))) @ x.T


def two_camps(x, rng, n):
    """Not linear: half like items far out in one direction, half those near nothing in another."""
    one, other = 3 * np.abs(x[:, 0]), -3 * np.abs(x[:, 1])
    return np.where((np.arange(n) % 2)[:, None] == 0, one, other)


def opposites(x, rng, n):
    """Two modes of one latent value: half want what the others shun."""
    return np.where((np.arange(n) % 2)[:, None] == 0, 1, -1) * 4 * np.tanh(x[:, 0]) + x[:, 1]


def factors(x, rng, n):
    """Nothing of it is in the vectors."""
    return rng.normal(size=len(x)) + 2 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, len(x)))
