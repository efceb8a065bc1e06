"""Weights of many users at once: a convex problem a user, solved to a certificate.

Each user's weights minimise J(w) = sum_j weight_j loss(label_j, w . m_j) + strength KL(prior || w) over the simplex,
and 1/2 (w - prior)' precision (w - prior) where a normal prior is wanted, too. The first prior is its own barrier:
primal-dual Newton steps under the constraint sum w = 1 stay inside. The Frank-Wolfe gap
<grad J(w), w> - min_k grad_k J(w) >= J(w) - min J certifies each user (Jaggi, 2013); for the hinge, whose corner is
rounded on the way, the Fenchel dual does.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pal._adaptation.problems import Array, Numbers, Problem, derivatives, problems, pull_back, times
from pal._checks import tensor, whole
from pal._threads import at_most
from pal.errors import InputError
from pal.losses import Loss, get_loss, smoothed_hinge

__all__ = ["TOLERANCE", "Solution", "solve_weights", "variances"]

TOLERANCE = 1e-4  # of the gap, relative to max(1, J)
_LARGE = 30.0  # margins beyond it are left to float64 from the start
_FEW = 20_000  # so few cells gain nothing from float32


@dataclass(frozen=True)
class Solution:
    """Weights of U users with a certificate.

    Attributes:
        weights: (U, K), each row on the simplex.
        gap: (U,) float64: J(w) is at most this far above its minimum; NaN or inf where there is no certificate.
    """

    weights: Tensor
    gap: Tensor


@at_most(1)  # operations are short
@np.errstate(all="ignore")  # steps that overflow are not taken
def solve_weights(
    margins: Numbers,
    label: Numbers,
    user: Numbers,
    n_users: int,
    prior: Numbers | None = None,
    strength: float | Numbers = 1.0,
    loss: str = "logistic",
    weight: Numbers | None = None,
    start: Numbers | None = None,
    precision: Numbers | None = None,
    dtype: torch.dtype | None = None,
) -> Solution:
    """Weights of all users at once, each to a gap of at most 1e-4 max(1, J).

    Among large margins (some 10^2 of the hinge, 10^5 of other losses) rounding weights to float32 alone may cost more.

    Args:
        margins: (B, K) differences of prototype rewards, left minus right, of each answer.
        label: (B,) P(left preferred) as answered, in [0, 1].
        user: (B,) in [0, n_users); users without answers get the prior.
        n_users: U.
        prior: (K,), or (U, K) a row a user; at least 0, summing to 1; None for uniform.
        strength: positive, of KL(prior || w), in answers; or (U,), one a user.
        loss: "logistic", "exponential", "hinge" or "smooth_hinge".
        weight: (B,) of each answer, at least 0; None: all 1.
        start: (U, K) inside the simplex, where the search begins, as after more answers, unless the prior is better
            (lower J); None: the prior.
        precision: (K, K) positive semi-definite: 1/2 (w - prior)' precision (w - prior) is added to J.
        dtype: of the weights, torch.float32 or torch.float64; None: float64 where the margins are, or where rounding to
            float32 would cost somebody the tolerance, else float32.

    Returns:
        Weights (U, K) and gaps (U,).

    Raises:
        InputError: shapes or values that do not fit.
    """
    n_users, margins = whole("n_users", n_users, least=0), tensor("margins", margins)
    blocks = problems(margins, label, user, n_users, prior, strength, weight, precision)
    K = margins.shape[1]
    start = None if start is None else tensor("start", start)
    if start is not None and start.shape != (n_users, K):
        raise InputError(f"start must be ({n_users}, {K}), found {tuple(start.shape)}")
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"dtype must be torch.float32 or torch.float64, found {dtype!r}")
    exact = (dtype or margins.dtype) == torch.float64
    weights = np.empty((n_users, K), np.float64 if exact else np.float32)
    gap = np.zeros(n_users)
    kind = get_loss(loss)
    solve = _hinge if kind.name == "hinge" else _certified
    for users, p in blocks:
        w = p.centre()
        if p.y.size:
            if start is not None:
                w = _better(p, kind, w, start[users].detach().cpu().double().numpy().T.clip(1e-9))
            w, found, value = solve(p, kind, w)
            if weights.dtype == np.float32:  # the certificate is of what is given
                enough = TOLERANCE * value.clip(1.0)
                rounded = found + (_objective(p, kind, w.astype(np.float32)) - value).clip(0)
                if dtype is None and ((rounded > enough) & (found <= enough)).any():
                    weights = weights.astype(np.float64)
                else:
                    found = rounded
            gap[users] = found.clip(0)
        weights[users] = w.T
    return Solution(torch.from_numpy(weights), torch.from_numpy(gap))


@at_most(1)  # operations are short
@np.errstate(all="ignore")  # steps that overflow are not taken
def variances(
    weights: Tensor,
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    prior: Tensor,
    strength: float | Tensor,
    loss: str = "logistic",
    weight: Tensor | None = None,
    precision: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How sure solved weights (U, K) are, by Laplace's approximation on the simplex.

    The hinge, whose corner has no curvature, counts as smooth_hinge.
    Without answers and without a precision a variance is prior (1 - prior) / strength, close to that of a Dirichlet of
    that strength.

    Returns:
        The variance of each weight (U, K), and the covariances of all users, summed, (K, K) float64.
    """
    found = weights.detach().cpu().double().numpy()
    result, total = np.empty(found.shape, np.float32), np.zeros((found.shape[1],) * 2)
    kind = get_loss("smooth_hinge" if loss == "hinge" else loss)
    for users, narrow in problems(margins, label, user, len(found), prior, strength, weight, precision):
        p, w = narrow.to(np.float64), found[users].T.clip(1e-9)
        _, second = derivatives(kind, times(p.m, w), p.y)
        hessian = _scaled_hessian(p, second * p.c, w, np.broadcast_to(p.strength * p.prior, w.shape))
        eye = np.broadcast_to(np.eye(len(w))[:, :, None], hessian.shape)
        solved = _solve(hessian, np.concatenate([eye, w[:, None]], axis=1))
        along = solved[:, -1] / np.sqrt((w * solved[:, -1]).sum(0))
        free = solved[:, :-1].diagonal().T - np.square(along)
        result[users] = (np.square(w) * free.clip(0)).T
        shift = w * along
        total += np.einsum("jku,ju,ku->jk", solved[:, :-1], w, w) - shift @ shift.T
    return torch.from_numpy(result), torch.from_numpy(total)


def _one_by_one(users: int) -> bool:
    """Whether so few are better served by BLAS and LAPACK, which take one matrix at a time."""
    return users < 64


def _scaled_hessian(p: Problem, second: Array, w: Array, barrier: Array) -> Array:
    """The upper triangle (K, K, U) of the Hessian in the scaled variable v = d / w; the barrier's part is (K, U)."""
    K, _, U = p.m.shape
    if _one_by_one(U):
        turned = np.ascontiguousarray(p.m.transpose(2, 0, 1))
        scaled = turned * np.ascontiguousarray(second.T)[:, None]
        hessian = np.ascontiguousarray((scaled @ turned.transpose(0, 2, 1)).transpose(1, 2, 0))
    else:
        hessian = np.zeros((K, K, U), w.dtype)
        for k in range(K):
            np.einsum("nu,lnu->lu", p.m[k] * second, p.m[k:], out=hessian[k, k:])
    if p.precision is not None:
        hessian += p.precision[:, :, None]
    hessian *= w[:, None]
    hessian *= w
    hessian.reshape(K * K, U)[:: K + 1] += barrier
    return hessian


def _solve(hessian: Array, rhs: Array) -> Array:
    """Solves (K, K, U) positive definite systems, of which the upper triangle is read, for (K, R, U)."""
    K, _, U = hessian.shape
    if _one_by_one(U):
        upper = np.triu(np.ones((K, K), bool))[:, :, None]
        full = np.where(upper, hessian, hessian.transpose(1, 0, 2))
        try:
            solved: Array = np.linalg.solve(full.transpose(2, 0, 1), rhs.transpose(2, 0, 1)).transpose(1, 2, 0)
            return solved
        except np.linalg.LinAlgError:  # of one user, who would end it for all
            pass
    a = torch.from_numpy(np.concatenate([hessian, rhs], axis=1))
    for j in range(K):  # elimination, for all users at once; torch's multiplication and addition round only once
        row = a[j, j + 1 :] / a[j, j]
        a[j + 1 :, j + 1 :].addcmul_(a[j, j + 1 : K, None], row, value=-1)
        a[j, j + 1 :] = row
    x = a[:, K:]
    for j in range(K - 1, 0, -1):
        x[:j].addcmul_(a[:j, j, None], x[j], value=-1)
    result: Array = x.numpy()
    return result


def _objective(problem: Problem, loss: Loss, w: Array) -> Array:
    """J (U,) of weights (K, U), in float64."""
    exact, w = problem.to(np.float64), w.astype(np.float64).clip(1e-45)
    return exact.objective(times(exact.m, w), w, loss)


def _better(problem: Problem, loss: Loss, prior: Array, start: Array) -> Array:
    """Of two points (K, U) a user the one with the lower J."""
    start = start / start.sum(0)
    value, other = (_objective(problem, loss, w) for w in (start, prior))
    return np.where(value < other, start, prior)


def _certified(problem: Problem, loss: Loss, start: Array) -> tuple[Array, Array, Array]:
    """float32 finds the weights (K, U), float64 certifies them, and goes on where they are not good enough."""
    w = start
    small = max(-problem.m.min(), problem.m.max()) < _LARGE and problem.strength.max() < 1e4
    if problem.m.size > _FEW and small:
        w, _, _ = _newton(problem.to(np.float32), loss, start.astype(np.float32), 0.1 * TOLERANCE, 12, careful=False)
        w = w.astype(np.float64).clip(1e-12)
        w = w / w.sum(0)
    exact = problem.to(np.float64)
    w, gap, value = _newton(exact, loss, w, 0.5 * TOLERANCE, 40)
    hard = (~(gap <= TOLERANCE * value.clip(1.0))).nonzero()[0]
    if len(hard):
        solved, solved_gap, solved_value = _soften(exact.take(hard), loss)
        better = solved_gap < gap[hard]
        taken = hard[better]
        w[:, taken], gap[taken], value[taken] = solved[:, better], solved_gap[better], solved_value[better]
    return w, gap, value


def _soften(p: Problem, loss: Loss) -> tuple[Array, Array, Array]:
    """Through ever sharper losses loss(t m) / t, t up to 1: huge margins make a loss all corners and no curvature."""
    w = p.centre()
    t = min(1.0, 1 / max(1.0, float(abs(p.m).max())))
    while t < 1:
        w, _, _ = _newton(replace(p, m=p.m * t, c=p.c / t), loss, w, 0.1 * TOLERANCE, 60)
        t *= 3
    return _newton(p, loss, w, 0.5 * TOLERANCE, 200)


def _newton(
    problem: Problem, loss: Loss, start: Array, tolerance: float, steps: int, careful: bool = True
) -> tuple[Array, Array, Array]:
    """Newton steps on the simplex; converged users are dropped from the batch.

    Without care, steps are not checked: J may rise, and is taken to be about the number of answers.

    Returns:
        Weights (K, U), Frank-Wolfe gaps (U,) and J (U,).
    """
    p, w = problem, start
    U = w.shape[1]
    result, result_gap, result_value = w.copy(), np.full(U, np.inf, w.dtype), np.empty(U, w.dtype)
    active = np.arange(U)
    z = times(p.m, w)
    best_value = value = p.objective(z, w, loss) if careful else p.c.sum(0)
    goal = p.strength * p.prior
    barrier = np.broadcast_to(goal, w.shape)  # w times its multiplier; strength prior at the solution
    best, best_gap = w, result_gap
    for _ in range(steps):
        first, second = derivatives(loss, z, p.y)
        grad = pull_back(p.m, p.c * first) - goal / w
        if p.precision is not None:
            grad += p.pull(w)
        along = np.einsum("ku,ku->u", grad, w)
        gap = np.where(abs(w.sum(0) - 1) < 1e-4, along - grad.min(0), np.inf)  # rounded off the simplex, no certificate
        better = gap < best_gap
        best, best_gap, best_value = (
            np.where(better, x, y) for x, y in ((w, best), (gap, best_gap), (value, best_value))
        )
        keep = (gap > tolerance * value.clip(1.0)).nonzero()[0]
        if not len(keep):
            break
        if len(keep) < 0.8 * len(active):
            result[:, active], result_gap[active], result_value[active] = best, best_gap, best_value
            p, active = p.take(keep), active[keep]
            goal = p.strength * p.prior
            w, z, value, grad, along, second, barrier, best, best_gap, best_value = (
                x.take(keep, axis=-1) for x in (w, z, value, grad, along, second, barrier, best, best_gap, best_value)
            )
        # steps sum to zero, so a constant in an answer's K margins does not count: without it less is lost in rounding
        centred = replace(p, m=p.m - z) if w.dtype == np.float64 else p
        rhs = np.stack([w * (grad - along), w], axis=1)
        newton, level = _solve(_scaled_hessian(centred, p.c * second, w, barrier), rhs).transpose(1, 0, 2)
        scaled = (w * newton).sum(0) / (w * level).sum(0) * level - newton
        scaled -= (w * scaled).sum(0)  # rounding must not leave the simplex
        step = np.minimum(0.99 / (-scaled).max(0).clip(0.99), 1.0)
        direction = w * scaled
        change = times(centred.m, direction)
        if careful:
            slope = np.einsum("ku,ku->u", grad, direction)
            step, value = _shortened(p, loss, (w, z, value), (direction, change, slope), step)
            if not step.any():
                break
        trial = w + step * direction
        # the multiplier moves by the same system (primal-dual), so that a weight that fell too far comes back at once
        dual = (barrier + step * (goal - barrier - barrier * scaled)) * (trial / w)
        barrier = np.minimum(np.maximum(dual, 0.1 * goal), 10 * goal)
        w, z = trial, z + step * change
    result[:, active], result_gap[active], result_value[active] = best, best_gap, best_value
    return result, result_gap, result_value


def _shortened(
    p: Problem, loss: Loss, at: tuple[Array, Array, Array], along: tuple[Array, Array, Array], step: Array
) -> tuple[Array, Array]:
    """Steps (U,), halved until J falls enough, or 0, and J (U,) there (Armijo).

    Args:
        p: the problem.
        loss: of the margins.
        at: weights (K, U), margins (n, U) and J (U,).
        along: the direction (K, U), how margins change along it (n, U), and the slope of J (U,).
        step: (U,) the longest.
    """
    (w, z, value), (direction, change, slope) = at, along
    enough = value + 8 * np.finfo(w.dtype).eps * abs(value)  # rounding
    step, new = step.copy(), p.objective(z + step * change, w + step * direction, loss)
    bad = (new > enough + 1e-4 * step * slope).nonzero()[0]
    for _ in range(39):
        if not len(bad):
            break
        step[bad] *= 0.5
        trial, trial_z = (x[:, bad] + step[bad] * y[:, bad] for x, y in ((w, direction), (z, change)))
        new[bad] = p.bare().take(bad).objective(trial_z, trial, loss)
        bad = bad[new[bad] > enough[bad] + 1e-4 * step[bad] * slope[bad]]
    step[bad], new[bad] = 0.0, value[bad]
    return step, new


def _hinge(problem: Problem, loss: Loss, start: Array) -> tuple[Array, Array, Array]:
    """The hinge through ever sharper roundings of its corner, until its dual gap is small enough."""
    p, current = problem.to(np.float64), start
    w, gap, reached = current.copy(), *np.full((2, current.shape[1]), np.inf)
    active = np.arange(len(gap))
    width = 1.0
    for _ in range(24):
        smooth = smoothed_hinge(width)
        current, _, _ = _newton(p, smooth, current, 0.1 * TOLERANCE, 200)
        z = times(p.m, current)
        value = p.objective(z, current, loss)
        g = value - _dual(p, smooth, z, current)
        better = g < gap[active]
        taken = active[better]
        w[:, taken], gap[taken], reached[taken] = current[:, better], g[better], value[better]
        left = (gap[active] > TOLERANCE * value.clip(1.0)).nonzero()[0]
        if not len(left):
            break
        p, current, active = p.take(left), current[:, left], active[left]
        width /= 4
    return w, gap, reached


def _dual(p: Problem, smooth: Loss, z: Array, w: Array) -> Array:
    """Fenchel dual value (U,) of the hinge problem at the multipliers that the rounded corner gives.

    With alpha in [0, 1] per side, hinge(m) >= alpha (1 - m); what remains, min over the simplex of
    -<v, w> + strength KL(prior || w), has w_k = strength prior_k / (lambda - v_k) with sum 1. A normal prior's term
    lies above its tangent at w, which is linear and goes into v.
    """
    margin = torch.from_numpy(z)
    right, left = -smooth.slope(margin).numpy() * p.y * p.c, -smooth.slope(-margin).numpy() * (1 - p.y) * p.c
    pull = p.pull(w)
    v = pull_back(p.m, right - left) - pull
    t, strength = p.strength * p.prior, p.strength[0]
    low, high = (v + t).max(0), v.max(0) + strength
    for _ in range(200):  # bisection on lambda: the sum falls with it
        mid = (low + high) / 2
        over = (t / (mid - v).clip(1e-300)).sum(0) > 1
        low, high = np.where(over, mid, low), np.where(over, high, mid)
    # any lambda gives a lower bound: min over w > 0 of the Lagrangian
    bound = (t * np.log((high - v) / p.strength)).sum(0) + strength - high
    value: Array = (right + left).sum(0) + bound - 0.5 * (pull * (w + p.prior)).sum(0)
    return value
