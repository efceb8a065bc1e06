"""k-means, from k-means++ starts."""

import math

import torch
from torch import Tensor

__all__ = ["k_means"]


def k_means(x: Tensor, K: int, generator: torch.Generator, restarts: int = 8) -> Tensor:
    """Groups (n,) of points (n, m): Lloyd's algorithm from k-means++ starts, the best of a few."""
    best, best_spread = torch.arange(len(x), device=x.device) % K, math.inf
    if len(x) <= K:
        return best

    def draw(p: Tensor) -> Tensor:
        return torch.multinomial(p.cpu(), 1, generator=generator).to(x.device)

    fitted = x if len(x) <= 20_000 else x[torch.randperm(len(x), generator=generator)[:20_000].to(x.device)]
    for _ in range(restarts):
        centres = fitted[draw(torch.ones(len(fitted)))]
        nearest = torch.full((len(fitted),), torch.inf, device=x.device)
        for _ in range(K - 1):
            nearest = torch.minimum(nearest, torch.cdist(fitted, centres[-1:]).squeeze(1).square())
            centres = torch.cat([centres, fitted[draw(nearest + 1e-12)]])
        for _ in range(20):
            group = torch.cdist(fitted, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, group, fitted)
            sizes = torch.bincount(group, minlength=K)[:, None]
            centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        spread = float(torch.cdist(fitted, centres).min(1).values.square().sum())
        if spread < best_spread:
            best, best_spread = torch.cdist(x, centres).argmin(1), spread
    return best
