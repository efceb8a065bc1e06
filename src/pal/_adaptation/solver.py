"""Weights of many users at once: a convex problem a user, solved to a certificate.

Each user's weights minimise J(w) = sum_j weight_j loss(label_j, w . m_j) + strength KL(prior || w) over the simplex,
and 1/2 (w - prior)' precision (w - prior) where a normal prior is wanted, too. The first prior is its own barrier:
primal-dual Newton steps under the constraint sum w = 1 stay inside. The Frank-Wolfe gap
<grad J(w), w> - min_k grad_k J(w) >= J(w) - min J certifies each user (Jaggi, 2013); for the hinge, whose corner is
rounded on the way, the Fenchel dual does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pal._checks import number
from pal.errors import InputError
from pal.losses import Loss, get_loss, smoothed_hinge

__all__ = ["TOLERANCE", "Solution", "solve_weights", "variances"]

TOLERANCE = 1e-4  # of the gap, relative to max(1, J)
_CELLS = 1_000_000  # users x answers x K at a time: stays near the caches, and any number of users fits
_LARGE = 30.0  # margins beyond it are left to float64 from the start
_FEW = 20_000  # so few cells gain nothing from float32


@dataclass(frozen=True)
class Solution:
    """Weights of U users with a certificate.

    Attributes:
        weights: (U, K) float32, each row on the simplex.
        gap: (U,) float64: J(w) is at most this far above its minimum; NaN where there is no certificate.
    """

    weights: Tensor
    gap: Tensor


def solve_weights(
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    n_users: int,
    prior: Tensor | None = None,
    strength: float | Tensor = 1.0,
    loss: str = "logistic",
    weight: Tensor | None = None,
    start: Tensor | None = None,
    precision: Tensor | None = None,
) -> Solution:
    """Weights of all users at once, each to a gap of at most 1e-4 max(1, J).

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

    Returns:
        Weights (U, K) and gaps (U,).

    Raises:
        InputError: shapes or values that do not fit.
    """
    prior, hold = _checked(margins, label, user, n_users, prior, strength, weight)
    K = prior.shape[1]
    if precision is not None and precision.shape != (K, K):
        raise InputError(f"precision must be ({K}, {K}), found {tuple(precision.shape)}")
    if start is not None and start.shape != (n_users, K):
        raise InputError(f"start must be ({n_users}, {K}), found {tuple(start.shape)}")
    weights, gap = torch.empty(n_users, K), torch.zeros(n_users, dtype=torch.float64)
    kind = get_loss(loss)
    for users, problem in _blocks(margins, label, user, n_users, prior, hold, weight, precision):
        w = problem.prior.expand(len(users), -1)
        if problem.m.shape[1] == 0:
            weights[users] = w.float()
            continue
        if start is not None:
            w = _better(problem, kind, w, start[users].double().clamp(min=1e-9))
        solve = _hinge if kind.name == "hinge" else _certified
        solved, gap[users] = solve(problem, kind, w)
        weights[users] = solved.float()
    return Solution(weights, gap)


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
) -> Tensor:
    """Variance of each weight (U, K) around solved weights (U, K), by Laplace's approximation on the simplex.

    The hinge, whose corner has no curvature, counts as smooth_hinge.
    Without answers it is prior (1 - prior) / strength, close to that of a Dirichlet of that strength.
    """
    prior, hold = _checked(margins, label, user, len(weights), prior, strength, weight)
    result = torch.empty(len(weights), prior.shape[1])
    kind = get_loss("smooth_hinge" if loss == "hinge" else loss)
    for users, problem in _blocks(margins, label, user, len(weights), prior, hold, weight, precision):
        problem, w = problem.to(torch.float64), weights[users].double().clamp(min=1e-9)
        _, second = kind.derivatives(_times(problem.m, w), problem.y)
        hessian = _scaled_hessian(problem, second * problem.c, w, problem.strength * problem.prior)
        K = w.shape[1]
        rhs = torch.cat([torch.eye(K, dtype=w.dtype).expand(len(w), -1, -1), w[:, :, None]], dim=2)
        solved = _solve(hessian, rhs)
        along = solved[:, :, K]
        free = solved[:, :, :K].diagonal(dim1=1, dim2=2) - along.square() / (w * along).sum(1, keepdim=True)
        result[users] = (w.square() * free.clamp(min=0)).float()
    return result


def _checked(
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    n_users: int,
    prior: Tensor | None,
    strength: float | Tensor,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The prior (1 or U, K), positive, and its strength (1 or U, 1), float64; refuses what does not fit."""
    n = len(margins)
    if margins.ndim != 2 or len(label) != n or len(user) != n or (weight is not None and len(weight) != n):
        raise InputError(
            f"margins must be (B, K), label and user (B,): found {tuple(margins.shape)}, {len(label)}, {len(user)}"
        )
    if n and (int(user.min()) < 0 or int(user.max()) >= n_users):
        raise InputError(f"user must lie in [0, {n_users}), found {int(user.min())} to {int(user.max())}")
    if n and not bool(torch.isfinite(margins).all()):
        raise InputError("margins must be finite")
    if n and not bool(((label >= 0) & (label <= 1)).all()):
        raise InputError("label must lie in [0, 1]")
    if not isinstance(strength, Tensor):
        hold = torch.tensor([[number("strength", strength)]], dtype=torch.float64)
    else:
        hold = strength.detach().double().reshape(-1, 1)
        if strength.shape != (n_users,) or not bool((torch.isfinite(hold) & (hold > 0)).all()):
            raise InputError(f"strength must be positive, one number or ({n_users},), found {tuple(strength.shape)}")
    if weight is not None and not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise InputError("weight must be at least 0")
    K = margins.shape[1]
    if prior is None:
        return torch.full((1, K), 1.0 / K, dtype=torch.float64), hold
    pi = prior.detach().double()
    pi = pi[None] if pi.ndim == 1 else pi
    if pi.ndim != 2 or pi.shape[1] != K or len(pi) not in (1, n_users):
        raise InputError(f"prior must be ({K},) or ({n_users}, {K}), found {tuple(prior.shape)}")
    if bool((pi < 0).any()) or bool(((pi.sum(1) - 1).abs() > 1e-3).any()):
        raise InputError("prior must be at least 0 and sum to 1")
    pi = pi.clamp(min=1e-9)
    return pi / pi.sum(1, keepdim=True), hold


@dataclass(frozen=True)
class _Problem:
    """Users with about as many answers each, padded to n: m (U, n, K), y (U, n), c (U, n) weights (0: padding).

    prior is (U, K) or (1, K), its strength (U, 1) or (1, 1); precision (K, K), of a normal prior around it, or None.
    """

    m: Tensor
    y: Tensor
    c: Tensor
    prior: Tensor
    strength: Tensor
    precision: Tensor | None = None

    def take(self, rows: Tensor) -> "_Problem":
        """The users at these rows."""
        prior, strength = (x if len(x) == 1 else x[rows] for x in (self.prior, self.strength))
        return replace(self, m=self.m[rows], y=self.y[rows], c=self.c[rows], prior=prior, strength=strength)

    def to(self, dtype: torch.dtype) -> "_Problem":
        """The same in another precision."""
        precision = None if self.precision is None else self.precision.to(dtype)
        m, y, c, prior, strength = (x.to(dtype) for x in (self.m, self.y, self.c, self.prior, self.strength))
        return replace(self, m=m, y=y, c=c, prior=prior, strength=strength, precision=precision)

    def objective(self, z: Tensor, w: Tensor, loss: Loss) -> Tensor:
        """J (U,) at weights w (U, K) whose margins are z (U, n)."""
        divergence = (self.strength * self.prior * (self.prior.log() - w.log())).sum(1)
        value = (self.c * loss(z, self.y)).sum(1) + divergence
        return value if self.precision is None else value + 0.5 * ((w - self.prior) * self.pull(w)).sum(1)

    def pull(self, w: Tensor) -> Tensor:
        """Gradient (U, K) of the normal prior's term."""
        return torch.zeros_like(w) if self.precision is None else (w - self.prior) @ self.precision


def _blocks(
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    n_users: int,
    prior: Tensor,
    strength: Tensor,
    weight: Tensor | None,
    precision: Tensor | None,
) -> Iterator[tuple[Tensor, _Problem]]:
    """Users (U,) with about as many answers each, in blocks of bounded size, and their answers."""
    ascending = len(user) < 2 or bool((user[1:] >= user[:-1]).all())
    order = None if ascending else torch.argsort(user, stable=True)
    counts = torch.bincount(user, minlength=n_users)
    starts = counts.cumsum(0) - counts
    by_count = torch.argsort(counts, stable=True)
    sizes = counts[by_count]
    low, K = 0, margins.shape[1]
    while low < n_users:
        least = int(sizes[low])
        longest = least + least // 5  # padding of a fifth at most
        high = int(torch.searchsorted(sizes, longest, right=True))
        high = min(high, low + max(1, _CELLS // max(1, longest * K)))
        users, n = by_count[low:high], int(sizes[high - 1])
        place = torch.arange(n)
        rows = starts[users][:, None] + place
        real = place < counts[users][:, None]
        if n > least:
            rows = torch.where(real, rows, starts[users][:, None])
        if order is not None:
            rows = order[rows]
        flat = rows.flatten()
        shape = (len(users), n)
        c = real.float() if weight is None else real * weight.float().index_select(0, flat).view(shape)
        yield (
            users,
            _Problem(
                margins.index_select(0, flat).view(*shape, K),
                label.index_select(0, flat).view(shape),
                c,
                prior if len(prior) == 1 else prior[users],
                strength if len(strength) == 1 else strength[users],
                precision,
            ),
        )
        low = high


def _times(m: Tensor, w: Tensor) -> Tensor:
    """Margins (U, n) of weights (U, K)."""
    return torch.bmm(m, w[:, :, None]).squeeze(2)


def _scaled_hessian(p: _Problem, second: Tensor, w: Tensor, barrier: Tensor) -> Tensor:
    """The Hessian (U, K, K) in the scaled variable v = d / w; the barrier's part is diagonal, (U, K)."""
    hessian = torch.bmm((p.m * second[:, :, None]).transpose(1, 2), p.m)
    if p.precision is not None:
        hessian += p.precision
    hessian.mul_(w[:, :, None]).mul_(w[:, None, :]).diagonal(dim1=1, dim2=2).add_(barrier)
    return hessian


def _solve(hessian: Tensor, rhs: Tensor) -> Tensor:
    """Solves (U, K, K) positive definite systems for (U, K, R); users innermost, K elimination steps for all at once.

    LAPACK takes one matrix at a time, which for small ones is mostly calls.
    """
    n, K = hessian.shape[:2]
    if n < 64 or K > 24:
        return torch.cholesky_solve(rhs, torch.linalg.cholesky_ex(hessian).L)
    a = torch.cat([hessian, rhs], dim=2).permute(1, 2, 0).contiguous()
    for j in range(K):
        row = a[j, j:] / a[j, j]
        below = a[j + 1 :, j, None].clone()
        a[j + 1 :, j:].addcmul_(below, row[None], value=-1)
        a[j, j:] = row
    x = a[:, K:]
    for j in range(K - 1, 0, -1):
        x[:j].addcmul_(a[:j, j, None], x[None, j], value=-1)
    return x.permute(2, 0, 1)


def _better(problem: _Problem, loss: Loss, prior: Tensor, start: Tensor) -> Tensor:
    """Of two points (U, K) a user the one with the lower J."""
    exact, start = problem.to(torch.float64), start / start.sum(1, keepdim=True)
    value, other = (exact.objective(_times(exact.m, w), w, loss) for w in (start, prior))
    return torch.where((value < other)[:, None], start, prior)


def _certified(problem: _Problem, loss: Loss, start: Tensor) -> tuple[Tensor, Tensor]:
    """float32 finds the weights, float64 certifies them, and goes on where they are not good enough."""
    w = start
    largest = float(problem.m.abs().max())
    if problem.m.numel() > _FEW and largest < _LARGE and float(problem.strength.max()) < 1e4:
        w, _ = _newton(problem.to(torch.float32), loss, start.float(), 0.2 * TOLERANCE, 12)
        w = w.double().clamp(min=1e-12)
        w = w / w.sum(1, keepdim=True)
    exact = problem.to(torch.float64)
    w, gap = _newton(exact, loss, w.double(), 0.5 * TOLERANCE, 40)
    if bool((gap <= TOLERANCE).all()):
        return w, gap
    value = exact.objective(_times(exact.m, w), w, loss)
    hard = (~(gap <= TOLERANCE * value.clamp(min=1.0))).nonzero().squeeze(1)
    if len(hard):
        solved, solved_gap = _soften(exact.take(hard), loss)
        better = solved_gap < gap[hard]
        w[hard[better]], gap[hard[better]] = solved[better], solved_gap[better]
    return w, gap


def _soften(p: _Problem, loss: Loss) -> tuple[Tensor, Tensor]:
    """Through ever sharper losses loss(t m) / t, t up to 1: huge margins make a loss all corners and no curvature."""
    w = p.prior.expand(len(p.m), -1).clone()
    t = min(1.0, 1 / float(p.m.abs().max().clamp(min=1.0)))
    while t < 1:
        w, _ = _newton(replace(p, m=p.m * t, c=p.c / t), loss, w, 0.1 * TOLERANCE, 60)
        t *= 3
    return _newton(p, loss, w, 0.5 * TOLERANCE, 200)


def _newton(problem: _Problem, loss: Loss, start: Tensor, tolerance: float, steps: int) -> tuple[Tensor, Tensor]:
    """Damped Newton steps on the simplex; converged users are dropped from the batch.

    Returns:
        Weights (U, K) and Frank-Wolfe gaps (U,).
    """
    p, w = problem, start
    result, result_gap = start.clone(), torch.full((len(start),), torch.inf, dtype=start.dtype)
    active = torch.arange(len(start))
    z = _times(p.m, w)
    value = p.objective(z, w, loss)
    barrier = (p.strength * p.prior).expand_as(w)  # w times its multiplier; strength prior at the solution
    for _ in range(steps):
        first, second = loss.derivatives(z, p.y)
        grad = torch.bmm((p.c * first)[:, None, :], p.m).squeeze(1) - p.strength * p.prior / w
        if p.precision is not None:
            grad += p.pull(w)
        gap = (grad * w).sum(1) - grad.min(1).values
        better = gap < result_gap[active]
        result[active[better]], result_gap[active[better]] = w[better], gap[better]
        keep = (gap > tolerance * value.clamp(min=1.0)).nonzero().squeeze(1)
        if not len(keep):
            break
        if len(keep) < 0.8 * len(w):
            p, w, z, value, grad = p.take(keep), w[keep], z[keep], value[keep], grad[keep]
            second, active, barrier = second[keep], active[keep], barrier[keep]
        # steps sum to zero, so a constant in an answer's K margins does not count: without it less is lost in rounding
        centred = replace(p, m=p.m - z[:, :, None]) if w.dtype == torch.float64 else p
        solved = _solve(
            _scaled_hessian(centred, p.c * second, w, barrier),
            torch.stack([w * (grad - (w * grad).sum(1, keepdim=True)), w], dim=2),
        )
        ratio = (w * solved[:, :, 0]).sum(1) / (w * solved[:, :, 1]).sum(1)
        scaled = ratio[:, None] * solved[:, :, 1] - solved[:, :, 0]
        scaled = scaled - (w * scaled).sum(1, keepdim=True)  # rounding must not leave the simplex
        step = (0.99 / (-scaled).max(1).values.clamp(min=0.99)).clamp(max=1.0)
        direction = w * scaled
        slope, change = (grad * direction).sum(1), _times(centred.m, direction)
        enough = value + 8 * torch.finfo(w.dtype).eps * value.abs()  # rounding
        trial, trial_z = w + step[:, None] * direction, z + step[:, None] * change
        new = p.objective(trial_z, trial, loss)
        bad = (new > enough + 1e-4 * step * slope).nonzero().squeeze(1)
        if len(bad):  # halve where the objective did not fall enough
            bare = replace(p, m=p.m[:, :0])  # the objective has no need of single margins
            for _ in range(39):
                step[bad] *= 0.5
                at = step[bad]
                trial[bad] = w[bad] + at[:, None] * direction[bad]
                trial_z[bad] = z[bad] + at[:, None] * change[bad]
                new[bad] = bare.take(bad).objective(trial_z[bad], trial[bad], loss)
                bad = bad[new[bad] > enough[bad] + 1e-4 * at * slope[bad]]
                if not len(bad):
                    break
            step[bad], trial[bad], trial_z[bad], new[bad] = 0.0, w[bad], z[bad], value[bad]
        # the multiplier moves by the same system (primal-dual), so that a weight that fell too far comes back at once
        goal = p.strength * p.prior
        dual = (barrier + step[:, None] * (goal - barrier - barrier * scaled)) * (trial / w)
        barrier = torch.minimum(torch.maximum(dual, 0.1 * goal), 10 * goal)
        w, z, value = trial, trial_z, new
        if len(bad) == len(w):  # nobody moved
            break
    return result, result_gap


def _hinge(problem: _Problem, loss: Loss, start: Tensor) -> tuple[Tensor, Tensor]:
    """The hinge through ever sharper roundings of its corner, until its dual gap is small enough."""
    p, current = problem.to(torch.float64), start.double()
    w, gap = current.clone(), torch.full((len(current),), torch.inf, dtype=torch.float64)
    active = torch.arange(len(current))
    width = 1.0
    for _ in range(24):
        smooth = smoothed_hinge(width)
        current, _ = _newton(p, smooth, current, 0.1 * TOLERANCE, 200)
        z = _times(p.m, current)
        value = p.objective(z, current, loss)
        g = value - _dual(p, smooth, z, current)
        better = g < gap[active]
        w[active[better]], gap[active[better]] = current[better], g[better]
        left = (gap[active] > TOLERANCE * value.clamp(min=1.0)).nonzero().squeeze(1)
        if not len(left):
            break
        p, current, active = p.take(left), current[left], active[left]
        width /= 4
    return w, gap


def _dual(p: _Problem, smooth: Loss, z: Tensor, w: Tensor) -> Tensor:
    """Fenchel dual value (U,) of the hinge problem at the multipliers that the rounded corner gives.

    With alpha in [0, 1] per side, hinge(m) >= alpha (1 - m); what remains, min over the simplex of
    -<v, w> + strength KL(prior || w), has w_k = strength prior_k / (lambda - v_k) with sum 1. A normal prior's term
    lies above its tangent at w, which is linear and goes into v.
    """
    right, left = -smooth.slope(z) * p.y * p.c, -smooth.slope(-z) * (1 - p.y) * p.c
    pull = p.pull(w)
    v = torch.bmm((right - left)[:, None, :], p.m).squeeze(1) - pull
    t, strength = p.strength * p.prior, p.strength.squeeze(1)
    low, high = (v + t).max(1).values, v.max(1).values + strength
    for _ in range(200):  # bisection on lambda: the sum falls with it
        mid = (low + high) / 2
        over = (t / (mid[:, None] - v).clamp(min=1e-300)).sum(1) > 1
        low, high = torch.where(over, mid, low), torch.where(over, high, mid)
    # any lambda gives a lower bound: min over w > 0 of the Lagrangian
    bound = (t * ((high[:, None] - v) / p.strength).log()).sum(1) + strength - high
    return (right + left).sum(1) + bound - 0.5 * (pull * (w + p.prior)).sum(1)
