"""Tiny populations and Hypothesis strategies for tests, here and in projects that build on PAL. Needs `hypothesis`."""

import numpy as np
import polars as pl
from hypothesis import strategies as st

from pal.comparisons import Comparisons, Items
from pal.embeddings import EmbeddedComparisons

__all__ = ["tiny", "user_ids"]

user_ids = st.text(min_size=1, max_size=20) | st.sampled_from(["a.b@c.d", "keys", "🙂", "x" * 10_000, " ", "1"])


def tiny(
    n: int = 200, users: int = 8, responses: int = 12, prompts: int = 5, dim: int = 6, seed: int = 0, ties: float = 0.1
) -> EmbeddedComparisons:
    """Random comparisons with prompts and own vectors; ``prompts=0`` for none. User u likes the u-th direction."""
    rng = np.random.default_rng(seed)
    user = np.arange(n, dtype=np.int32) % users
    left = rng.integers(responses, size=n).astype(np.int32)
    right = ((left + rng.integers(1, responses, size=n)) % responses).astype(np.int32)
    x = rng.normal(size=(responses, dim)).astype(np.float32)
    c = rng.normal(size=(max(prompts, 1), dim)).astype(np.float32)
    prompt = rng.integers(max(prompts, 1), size=n).astype(np.int32)
    direction = np.eye(dim)[np.arange(users) % min(3, dim)]
    sign = np.sign(c[prompt, 0]) if prompts else 1.0
    label = (((x[left] - x[right]) * direction[user]).sum(1) * sign > 0).astype(np.float32)
    label[rng.random(n) < ties] = 0.5

    def items(kind: str, count: int) -> Items:
        return Items(pl.Series("id", [f"{kind}{i}" for i in range(count)]), None, "id")

    table = Comparisons(
        user=user,
        left=left,
        right=right,
        prompt=prompt if prompts else None,
        label=label,
        weight=None,
        timestamp=None,
        assigned=None,
        user_ids=pl.Series("user_id", [f"u{i}" for i in range(users)]),
        responses=items("r", responses),
        prompts=items("p", prompts) if prompts else None,
        sided=True,
    )
    return EmbeddedComparisons(table, x, c if prompts else None)
