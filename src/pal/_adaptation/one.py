"""The solver for one person: bookkeeping for many would take most of the millisecond that one more answer may."""

import numpy as np
import numpy.typing as npt
import torch

from pal._adaptation.solver import TOLERANCE, solve_weights
from pal.losses import Loss

__all__ = ["solve_one"]

Array = npt.NDArray[np.float64]

_STEPS = 20  # of Newton; who is not certified by then is left to the solver of many


def solve_one(
    m: Array,
    y: Array,
    c: Array,
    prior: Array,
    strength: float,
    loss: Loss,
    start: Array,
    precision: Array | None = None,
) -> Array:
    """Weights (K,) of one person as `solve_weights` finds them, to the same gap.

    Args:
        m: (n, K) margins of the answers.
        y: (n,) labels.
        c: (n,) weights of the answers.
        prior: (K,) on the simplex.
        strength: of the prior.
        loss: of the margins.
        start: (K,) on the simplex, close to the solution, as the weights before one more answer.
        precision: (K, K) of a normal prior; None: the divergence alone.
    """
    prior, start = (x / x.sum() for x in (np.maximum(prior, 1e-9), np.maximum(start, 1e-9)))
    if loss.name != "hinge":  # which has a corner
        w = _newton(m, y, c, prior, strength, loss, start, precision)
        if w is not None:
            return w
    margins, label, weight, centre, begin = (torch.from_numpy(x) for x in (m, y, c, prior, start))
    user = torch.zeros(len(m), dtype=torch.long)
    held = None if precision is None else torch.from_numpy(precision)
    solved = solve_weights(margins, label, user, 1, centre, strength, loss.name, weight, begin[None], held)
    return solved.weights[0].double().numpy()


def _newton(
    m: Array, y: Array, c: Array, prior: Array, strength: float, loss: Loss, w: Array, precision: Array | None
) -> Array | None:
    """Damped Newton steps on the simplex, as in `solve_weights`; None where they do not reach the tolerance."""
    label, goal = torch.from_numpy(y), strength * prior

    def objective(z: Array, w: Array) -> float:
        value = float(c @ loss(torch.from_numpy(z), label).numpy() - goal @ np.log(w / prior))
        return value if precision is None else value + 0.5 * float((w - prior) @ precision @ (w - prior))

    z, barrier = m @ w, goal
    value = objective(z, w)
    for _ in range(_STEPS):
        first, second = (x.numpy() for x in loss.derivatives(torch.from_numpy(z), label))
        grad = (c * first) @ m - goal / w
        if precision is not None:
            grad += precision @ (w - prior)
        along = grad @ w
        if along - grad.min() <= 0.5 * TOLERANCE * max(1.0, value):
            return w
        centred = (m - z[:, None]) * w  # in the scaled variable v = d / w
        hessian = centred.T @ (centred * (c * second)[:, None])
        if precision is not None:
            hessian += w[:, None] * precision * w
        hessian.flat[:: len(w) + 1] += barrier
        try:
            newton, level = np.linalg.solve(hessian, np.stack([w * (grad - along), w], axis=1)).T
        except np.linalg.LinAlgError:
            return None
        scaled = (w @ newton) / (w @ level) * level - newton  # a step along which the weights still sum to 1
        scaled -= w @ scaled  # rounding must not leave the simplex
        direction = w * scaled
        slope, change = grad @ direction, centred @ scaled
        step = min(1.0, 0.99 / max(0.99, -scaled.min()))
        rounding = 8 * np.finfo(float).eps * abs(value)
        while True:
            trial, trial_z = w + step * direction, z + step * change
            new = objective(trial_z, trial)
            if new <= value + rounding + 1e-4 * step * slope:
                break
            step /= 2
            if step < 1e-6:
                return None
        dual = (barrier + step * (goal - barrier - barrier * scaled)) * (trial / w)
        barrier = np.clip(dual, 0.1 * goal, 10 * goal)
        w, z, value = trial, trial_z, new
    return None
