"""Weights of new users from a few of their answers, the shared part frozen.

In the linear variants a user's weights minimise, over the simplex,

    J(w) = sum_j weight_j loss(label_j, w . m_j) + strength KL(prior || w),

convex in w, with the prior as its own barrier. Damped Newton steps under the constraint sum w = 1 solve it for all
users at once, and the Frank-Wolfe gap <grad J(w), w> - min_k grad_k J(w) >= J(w) - min J certifies each (Jaggi, 2013);
for the hinge, whose corner is rounded on the way, the Fenchel dual does.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.losses import Loss, get_loss, smoothed_hinge
from pal.model import RewardModel
from pal.prototypes import Terms
from pal.questions import Answers
from pal.users import UserWeights

__all__ = ["AdaptedUsers", "Solution", "adapt", "solve_weights"]

TOLERANCE = 1e-4  # of the gap, relative to max(1, J)
_CELLS = 4_000_000  # users x K x K at a time, so that any number of users fits
_PRODUCTS = 200_000  # answers x pairs of prototypes at a time, so that any number of answers does


@dataclass(frozen=True)
class Solution:
    """Weights of U users with a certificate.

    Attributes:
        weights: (U, K) float32, each row on the simplex.
        gap: (U,) float64: J(w) is at most this far above its minimum; NaN where there is no certificate.
    """

    weights: Tensor
    gap: Tensor


@dataclass(frozen=True, eq=False)
class AdaptedUsers(UserWeights):
    """Weights of new users; `RewardModel.with_users` takes them.

    Attributes:
        gap: (N,) float64, the certificate of each; see `Solution`.
    """

    gap: npt.NDArray[np.float64]

    @property
    def user_ids(self) -> pl.Series:
        """(N,) ids."""
        return self.ids


def adapt(
    model: RewardModel,
    few: EmbeddedComparisons,
    *,
    strength: float | None = None,
    prior: Tensor | None = None,
) -> AdaptedUsers:
    """Weights of the users in ``few``, from their answers there; the shared part stays as it is.

    Args:
        model: the model to adapt.
        few: the users' comparisons, embedded as the model's training data were.
        strength: of the prior; None for the one chosen in training.
        prior: (K,) where users start and what they are shrunk towards; None for the population's weights.

    Raises:
        InputError: the vectors are not of the kind the model was trained on.
    """
    table = few.comparisons
    present, user = np.unique(table.user, return_inverse=True)
    ids = table.user_ids.gather(present)
    questions, question = model.questions(few)
    weight = None if table.weight is None else torch.from_numpy(table.weight.copy())
    solution = fit_weights(
        model,
        model.terms(questions),
        Answers(torch.from_numpy(user.astype(np.int64)), question, torch.from_numpy(table.label.copy()), weight),
        len(present),
        model.config.strength if strength is None else strength,
        model.population if prior is None else prior,
    )
    counts = torch.from_numpy(np.bincount(user, minlength=len(present)).astype(np.int64))
    return AdaptedUsers(ids, solution.weights, counts, torch.ones(len(present)), solution.gap.numpy())


def fit_weights(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    strength: float,
    prior: Tensor,
) -> Solution:
    """Weights of users for the terms of a frozen model, by the solver that its variant allows.

    Args:
        model: the model; its loss and its variant count.
        terms: of the questions.
        answers: B answers of users in [0, n_users) to questions that are rows of the terms.
        n_users: U.
        strength: of the prior.
        prior: (K,).
    """
    if model.n_prototypes == 1:
        return Solution(torch.ones(n_users, 1), torch.zeros(n_users, dtype=torch.float64))
    loss = model.config.loss
    if model.config.partition:
        return _best_prototype(model, terms, answers, n_users, strength, prior)
    if terms.margins is not None:
        margins = terms.margins[answers.question]
        return solve_weights(margins, answers.label, answers.user, n_users, prior, strength, loss, answers.weight)
    return _descend(model, terms, answers, n_users, strength, prior)


def solve_weights(
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    n_users: int,
    prior: Tensor | None = None,
    strength: float = 1.0,
    loss: str = "logistic",
    weight: Tensor | None = None,
) -> Solution:
    """Weights of all users at once, each to a gap of at most 1e-4 max(1, J).

    Args:
        margins: (B, K) differences of prototype rewards, left minus right, of each answer.
        label: (B,) P(left preferred) as answered, in [0, 1].
        user: (B,) in [0, n_users); users without answers get the prior.
        n_users: U.
        prior: (K,) positive, summing to 1; None for uniform.
        strength: positive, of KL(prior || w), in answers.
        loss: "logistic", "exponential", "hinge" or "smooth_hinge".
        weight: (B,) of each answer, at least 0; None: all 1.

    Returns:
        Weights (U, K) and gaps (U,).

    Raises:
        InputError: shapes or values that do not fit.
    """
    K = margins.shape[1] if margins.ndim == 2 else 0
    _check(margins, label, user, n_users, prior, strength, weight)
    pi = torch.full((K,), 1.0 / K, dtype=torch.float64) if prior is None else prior.detach().double()
    pi = pi.clamp(min=1e-9)
    pi = pi / pi.sum()
    order = torch.argsort(user, stable=True)
    user, label = user[order], label[order].double()
    c = torch.ones_like(label) if weight is None else weight[order].double()
    counts = torch.bincount(user, minlength=n_users)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    weights = torch.empty(n_users, K)
    gap = torch.empty(n_users, dtype=torch.float64)
    block = max(1, _CELLS // (K * K))
    for low in range(0, n_users, block):
        high = min(n_users, low + block)
        a, b = int(starts[low]), int(starts[high])
        part = _Problem(margins[order[a:b]].double(), label[a:b], user[a:b] - low, c[a:b], high - low, pi, strength)
        w, certificate = _hinge(part) if loss == "hinge" else _newton(part, get_loss(loss), part.start())
        weights[low:high] = w.float()
        gap[low:high] = certificate
    return Solution(weights, gap)


def _check(
    margins: Tensor,
    label: Tensor,
    user: Tensor,
    n_users: int,
    prior: Tensor | None,
    strength: float,
    weight: Tensor | None,
) -> None:
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
    if not strength > 0:
        raise InputError(f"strength must be positive, found {strength!r}")
    if weight is not None and not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise InputError("weight must be at least 0")
    if prior is not None and (
        prior.shape != margins.shape[1:] or bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-3
    ):
        raise InputError(f"prior must be ({margins.shape[1]},), at least 0 and sum to 1")


@dataclass
class _Problem:
    """The answers of some users: margins (B, K), label (B,), user (B,) ascending, weight (B,); float64."""

    m: Tensor
    y: Tensor
    user: Tensor
    c: Tensor
    n: int
    prior: Tensor
    strength: float

    def start(self) -> Tensor:
        return self.prior.repeat(self.n, 1)

    def take(self, users: Tensor) -> "_Problem":
        """The users at these rows (a mask (n,))."""
        rows = users[self.user]
        place = users.cumsum(0) - 1
        return _Problem(
            self.m[rows],
            self.y[rows],
            place[self.user[rows]],
            self.c[rows],
            int(users.sum()),
            self.prior,
            self.strength,
        )

    def sum(self, values: Tensor) -> Tensor:
        """Sums over each user's answers: (B, ...) -> (n, ...)."""
        return torch.zeros(self.n, *values.shape[1:], dtype=torch.float64).index_add_(0, self.user, values)

    def sum_of_products(self, scale: Tensor, pairs: Tensor) -> Tensor:
        """Sums over each user's answers of scale m_k m_l for pairs (k, l) (2, m): (n, m)."""
        total = torch.zeros(self.n, pairs.shape[1], dtype=torch.float64)
        step = max(1, _PRODUCTS // pairs.shape[1])
        for low in range(0, len(self.m), step):  # products of all answers at once would fill the memory
            rows = slice(low, low + step)
            m = self.m[rows]
            total.index_add_(0, self.user[rows], scale[rows, None] * m[:, pairs[0]] * m[:, pairs[1]])
        return total

    def margin(self, w: Tensor) -> Tensor:
        return (self.m * w[self.user]).sum(1)

    def divergence(self, w: Tensor) -> Tensor:
        """Strength times KL(prior || w), (n,)."""
        return self.strength * (self.prior * (self.prior.log() - w.log())).sum(1)

    def objective(self, w: Tensor, loss: Loss) -> Tensor:
        return self.sum(self.c * loss(self.margin(w), self.y)) + self.divergence(w)


def _newton(problem: _Problem, loss: Loss, start: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Damped Newton steps on the simplex; converged users are dropped from the batch.

    Returns:
        Weights (n, K) and Frank-Wolfe gaps (n,).
    """
    K = start.shape[1]
    result, result_gap = start.clone(), torch.full((problem.n,), torch.inf, dtype=torch.float64)
    active = torch.arange(problem.n)
    p, w = problem, start.clone()
    value = p.objective(w, loss)
    upper = torch.triu_indices(K, K)
    for _ in range(200):
        first, second = loss.derivatives(p.margin(w), p.y)
        grad = p.sum((p.c * first)[:, None] * p.m) - p.strength * p.prior / w
        gap = (grad * w).sum(1) - grad.min(1).values
        result[active], result_gap[active] = w, gap
        go_on = gap > 0.5 * tolerance * value.abs().clamp(min=1.0)
        if not bool(go_on.any()):
            break
        if not bool(go_on.all()):
            keep = go_on.nonzero().squeeze(1)
            p, w, value, grad, active = p.take(go_on), w[keep], value[keep], grad[keep], active[keep]
            first, second = loss.derivatives(p.margin(w), p.y)
        # Newton in the scaled variable v = d / w: the barrier's Hessian becomes diag(strength prior)
        flat = p.sum_of_products(p.c * second, upper)
        hessian = torch.zeros(p.n, K, K, dtype=torch.float64)
        hessian[:, upper[0], upper[1]] = flat
        hessian[:, upper[1], upper[0]] = flat
        hessian = hessian * w[:, :, None] * w[:, None, :] + torch.diag(p.strength * p.prior)
        factor = torch.linalg.cholesky_ex(hessian).L
        rhs = torch.stack([w * grad, w], dim=2)
        solved = torch.cholesky_solve(rhs, factor)
        along = (w * solved[:, :, 0]).sum(1) / (w * solved[:, :, 1]).sum(1)
        direction = -w * (solved[:, :, 0] - along[:, None] * solved[:, :, 1])
        slope = (grad * direction).sum(1)
        step = (0.99 / (-direction / w).max(1).values.clamp(min=0.99)).clamp(max=1.0)
        moved = torch.zeros(p.n, dtype=torch.bool)
        for _ in range(40):  # halve where the objective did not fall enough
            trial = torch.where(moved[:, None], w, w + step[:, None] * direction)
            trial = trial / trial.sum(1, keepdim=True)
            new = p.objective(trial, loss)
            good = ~moved & (new <= value + 1e-4 * step * slope + 1e-12 * value.abs())
            w = torch.where(good[:, None], trial, w)
            value = torch.where(good, new, value)
            moved |= good
            if bool(moved.all()):
                break
            step = torch.where(moved, step, step / 2)
        if not bool(moved.any()):
            break
    return result, result_gap


def _hinge(problem: _Problem) -> tuple[Tensor, Tensor]:
    """The hinge through ever sharper roundings of its corner, until its dual gap is small enough."""
    loss = get_loss("hinge")
    w = problem.start()
    gap = torch.full((problem.n,), torch.inf, dtype=torch.float64)
    active = torch.arange(problem.n)
    p, current = problem, w.clone()
    width = 1.0
    for _ in range(24):
        smooth = smoothed_hinge(width)
        current, _ = _newton(p, smooth, current, tolerance=TOLERANCE * 0.1)
        value = p.objective(current, loss)
        g = value - _dual(p, smooth, current)
        better = g < gap[active]
        w[active[better]], gap[active[better]] = current[better], g[better]
        left = gap[active] > TOLERANCE * value.clamp(min=1.0)
        if not bool(left.any()):
            break
        keep = left.nonzero().squeeze(1)
        p, current, active = p.take(left), current[keep], active[keep]
        width /= 4
    return w, gap


def _dual(p: _Problem, smooth: Loss, w: Tensor) -> Tensor:
    """Fenchel dual value (n,) of the hinge problem at the multipliers that the rounded corner gives.

    With alpha in [0, 1] per side, hinge(m) >= alpha (1 - m); what remains, min over the simplex of
    -<v, w> + strength KL(prior || w), has w_k = strength prior_k / (lambda - v_k) with sum 1.
    """
    m = p.margin(w)
    right, left = -smooth.slope(m) * p.y * p.c, -smooth.slope(-m) * (1 - p.y) * p.c
    v = p.sum((right - left)[:, None] * p.m)
    t = p.strength * p.prior
    low = (v + t).max(1).values
    high = v.max(1).values + p.strength
    for _ in range(200):  # bisection on lambda: the sum falls with it
        mid = (low + high) / 2
        over = (t / (mid[:, None] - v).clamp(min=1e-300)).sum(1) > 1
        low, high = torch.where(over, mid, low), torch.where(over, high, mid)
    # any lambda gives a lower bound: min over w > 0 of the Lagrangian
    bound = (t * ((high[:, None] - v) / p.strength).log()).sum(1) + p.strength - high
    return p.sum(right + left) + bound


def _best_prototype(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    strength: float,
    prior: Tensor,
) -> Solution:
    """Partition: the prototype with the least loss, prior counted; exact, since there are only K to try."""
    loss, K = get_loss(model.config.loss), model.n_prototypes
    total = -strength * prior.double().clamp(min=1e-9).log().repeat(n_users, 1)
    corners = torch.eye(K)
    for k in range(K):
        margin = model.prototypes.margin(terms, corners[k : k + 1], answers.question, torch.zeros_like(answers.user))
        cost = loss(margin.detach().double(), answers.label.double())
        total[:, k] += torch.zeros(n_users, dtype=torch.float64).index_add_(
            0, answers.user, cost if answers.weight is None else cost * answers.weight
        )
    return Solution(corners[total.argmin(1)], torch.zeros(n_users, dtype=torch.float64))


def _descend(
    model: RewardModel,
    terms: Terms,
    answers: Answers,
    n_users: int,
    strength: float,
    prior: Tensor,
) -> Solution:
    """Where the margin is not linear in w: exponentiated gradient steps from several starts, no certificate."""
    loss, K = get_loss(model.config.loss), model.n_prototypes
    c = torch.ones_like(answers.label) if answers.weight is None else answers.weight
    log_prior = prior.clamp(min=1e-6).log()

    def objective(logits: Tensor) -> Tensor:
        w = torch.log_softmax(logits, 1)
        cost = c * loss(model.prototypes.margin(terms, w.exp(), answers.question, answers.user), answers.label)
        total = torch.zeros(n_users).index_add_(0, answers.user, cost)
        return total - strength * (prior * (w - log_prior)).sum(1)

    starts = [log_prior.repeat(n_users, 1)]
    starts += [(log_prior + 2 * torch.eye(K)[k]).repeat(n_users, 1) for k in range(K)]
    best, best_value = starts[0], torch.full((n_users,), torch.inf)
    for start in starts:
        logits = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([logits], lr=0.2)
        for step in range(150):
            for group in optimiser.param_groups:
                group["lr"] = 0.2 * (1 - step / 150)
            with torch.enable_grad():
                value = objective(logits).sum()
            (logits.grad,) = torch.autograd.grad(value, logits)
            optimiser.step()
        with torch.no_grad():
            value = objective(logits)
            better = value < best_value
            best = torch.where(better[:, None], logits, best)
            best_value = torch.where(better, value, best_value)
    return Solution(torch.softmax(best, 1).detach(), torch.full((n_users,), torch.nan, dtype=torch.float64))
