"""How simulated grids are trained: as PAL does it, and as the paper says (E.3), with what it leaves open."""

import hashlib
from dataclasses import asdict, replace

from pal.paper._stacks import Recipe

__all__ = ["NAMES", "RECIPES", "version"]

# "ours": grown from the pooled model, weights solved exactly. The paper: random starts, its learning rates and weight
# decay, 1,000 epochs, no prior on user weights. It does not say how large a batch is: all answers at once, or some.
PAPER = Recipe(
    init="random",
    lr=5e-4,
    prototype_lr=5e-3,
    user_lr=5e-3,
    weight_decay=1e-3,
    strength=0.0,
    batch_size=1 << 30,
    steps=1000,
    drops=(),
)
RECIPES = {
    "ours": Recipe(),
    "paper": PAPER,
    # Algorithm 1 has prototypes in R^d, equation 2 where the embeddings live, to be mapped
    "paper-mapped": replace(PAPER, ideal_point="map_of_mixture"),
    # 1,000 epochs of nine steps, where 100 users have 90 answers each
    "paper-batches": replace(PAPER, batch_size=1000, steps=9000),
}
NAMES = {
    "ours": "ours",
    "paper": "the paper’s recipe",
    "paper-mapped": "the paper’s, a = f(P w)",
    "paper-batches": "the paper’s, small batches",
}


def version(recipe: str) -> str:
    """A few letters that change when the recipe's settings do: part of a cell, so that old results are not taken up."""
    return hashlib.sha256(repr(sorted(asdict(RECIPES[recipe]).items())).encode()).hexdigest()[:8]
