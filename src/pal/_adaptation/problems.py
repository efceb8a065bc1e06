"""One convex problem a user, many users at a time, in the layout that the solver runs fastest on.

Users are innermost in every array: an operation then runs along them, whatever K and the number of answers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pal._checks import number, tensor
from pal.errors import InputError
from pal.losses import Loss

__all__ = ["Array", "Numbers", "Problem", "derivatives", "problems", "pull_back", "times"]

_CELLS = 500_000  # users x answers x K at a time: stays near the caches, and any number of users fits

Array = npt.NDArray[Any]  # of float32 or float64
Numbers = Tensor | npt.ArrayLike


@dataclass(frozen=True)
class Problem:
    """J(w) of U users with about as many answers each, padded to n.

    Attributes:
        m: (K, n, U) margins.
        y: (n, U) labels.
        c: (n, U) weights of the answers, 0 where padded.
        prior: (K, U) or (K, 1), on the simplex and positive.
        strength: (1, U) or (1, 1), of the divergence from the prior.
        precision: (K, K), of a normal prior around it, or None.
    """

    m: Array
    y: Array
    c: Array
    prior: Array
    strength: Array
    precision: Array | None = None

    def take(self, users: Array) -> "Problem":
        """Some of the users."""
        prior, strength = (x if x.shape[1] == 1 else x[:, users] for x in (self.prior, self.strength))
        m, y, c = (x.take(users, axis=-1) for x in (self.m, self.y, self.c))
        return replace(self, m=m, y=y, c=c, prior=prior, strength=strength)

    def bare(self) -> "Problem":
        """Without single margins, of which the objective has no need."""
        return replace(self, m=self.m[:0])

    def to(self, dtype: npt.DTypeLike) -> "Problem":
        """The same in another precision."""
        given = (self.m, self.y, self.c, self.prior, self.strength)
        m, y, c, prior, strength = (x.astype(dtype, copy=False) for x in given)
        precision = None if self.precision is None else self.precision.astype(dtype)
        return Problem(m, y, c, prior, strength, precision)

    def centre(self) -> Array:
        """The prior (K, U) of each user."""
        return np.repeat(self.prior, self.y.shape[1] // self.prior.shape[1], axis=1)

    def objective(self, z: Array, w: Array, loss: Loss) -> Array:
        """J (U,) at weights w (K, U) whose margins are z (n, U)."""
        cost = loss(torch.from_numpy(z), torch.from_numpy(self.y)).numpy()
        divergence = self.strength * self.prior * np.log(self.prior / w)
        value: Array = (self.c * cost).sum(0) + divergence.sum(0)
        return value if self.precision is None else value + 0.5 * ((w - self.prior) * self.pull(w)).sum(0)

    def pull(self, w: Array) -> Array:
        """Gradient (K, U) of the normal prior's term."""
        return np.zeros_like(w) if self.precision is None else self.precision @ (w - self.prior)


def derivatives(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """First and second derivative of the loss, each (n, U), at margins z (n, U) and labels y (n, U)."""
    first, second = loss.derivatives(torch.from_numpy(z), torch.from_numpy(y))
    return first.numpy(), second.numpy()


def times(m: Array, w: Array) -> Array:
    """Margins (n, U) of weights (K, U)."""
    z: Array = np.einsum("knu,ku->nu", m, w)
    return z


def pull_back(m: Array, slope: Array) -> Array:
    """Gradient (K, U) in the weights, of one in the margins (n, U)."""
    grad: Array = np.einsum("knu,nu->ku", m, slope)
    return grad


def problems(
    margins: Tensor,
    label: Numbers,
    user: Numbers,
    n_users: int,
    prior: Numbers | None,
    strength: float | Numbers,
    weight: Numbers | None,
    precision: Numbers | None,
) -> Iterator[tuple[Array, Problem]]:
    """Users (U,) with about as many answers each, in blocks of bounded size, and their problems.

    Arguments are those of `pal.adaptation.solve_weights`; what does not fit is refused before the first block.
    """
    label, user = tensor("label", label), tensor("user", user)
    weight = None if weight is None else tensor("weight", weight)
    precision = None if precision is None else tensor("precision", precision)
    _check(margins, label, user, n_users, weight)
    K = margins.shape[1]
    pi, hold = _held(n_users, K, prior, strength, precision)
    margins, label = (
        x if x.dtype == torch.float64 else x.float() for x in (margins.detach().cpu(), label.detach().cpu())
    )
    user, weight = user.cpu().long(), None if weight is None else weight.detach().cpu().float()
    held = None if precision is None else precision.detach().cpu().double().numpy()
    ascending = len(user) < 2 or bool((user[1:] >= user[:-1]).all())
    order = None if ascending else torch.argsort(user, stable=True)
    counts = torch.bincount(user, minlength=n_users)
    starts = counts.cumsum(0) - counts
    by_count = torch.argsort(counts, stable=True)
    sizes = counts[by_count]

    def block(users: Tensor, n: int) -> Problem:
        own, place = counts[users, None], torch.arange(n)
        real = place < own
        rows = starts[users, None] + torch.where(real, place, 0)
        flat = (rows if order is None or not n else order[rows]).flatten()

        def taken(x: Tensor) -> Array:
            # (n ..., U), by way of a matrix, which is turned faster than anything of more dimensions
            turned: Array = x.index_select(0, flat).view(len(users), -1).t().contiguous().numpy()
            return turned

        m = taken(margins).reshape(n, K, len(users)).transpose(1, 0, 2)
        c = real.t().float().numpy() if weight is None else real.t().numpy() * taken(weight)
        own_prior, own_hold = (x if x.shape[1] == 1 else x[:, users.numpy()] for x in (pi, hold))
        return Problem(np.ascontiguousarray(m), taken(label), np.ascontiguousarray(c), own_prior, own_hold, held)

    def blocks() -> Iterator[tuple[Array, Problem]]:
        low = 0
        while low < n_users:
            longest = int(sizes[low]) + int(sizes[low]) // 5  # padding of a fifth at most
            high = int(torch.searchsorted(sizes, longest, right=True))
            high = min(high, low + max(1, _CELLS // (K * max(1, longest, K))))
            users = by_count[low:high]
            yield users.numpy(), block(users, int(sizes[high - 1]))
            low = high

    return blocks()


def _check(margins: Tensor, label: Tensor, user: Tensor, n_users: int, weight: Tensor | None) -> None:
    """Refuses answers that do not fit."""
    shapes = [tuple(x.shape) for x in (margins, label, user, *([] if weight is None else [weight]))]
    if margins.ndim != 2 or not margins.shape[1] or set(shapes[1:]) != {shapes[0][:1]}:
        raise InputError(f"margins must be (B, K), label, user and weight (B,): found {', '.join(map(str, shapes))}")
    n = len(margins)
    if n and (user.is_floating_point() or user.dtype == torch.bool):
        raise InputError(f"user must be whole numbers, found {user.dtype}")
    if n and (int(user.min()) < 0 or int(user.max()) >= n_users):
        raise InputError(f"user must lie in [0, {n_users}), found {int(user.min())} to {int(user.max())}")
    if n and not all(bool(torch.isfinite(x)) for x in torch.aminmax(margins)):
        raise InputError("margins must be finite")
    if n and not all(0 <= float(x) <= 1 for x in torch.aminmax(label)):
        raise InputError("label must lie in [0, 1]")
    if weight is not None and not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise InputError("weight must be at least 0")


def _held(
    n_users: int, K: int, prior: Numbers | None, strength: float | Numbers, precision: Tensor | None
) -> tuple[Array, Array]:
    """The prior (K, 1 or U), positive, and its strength (1, 1 or U), float64; refuses what does not fit."""
    if isinstance(strength, int | float):
        hold = np.array([[number("strength", strength)]])
    else:
        strength = tensor("strength", strength)
        hold = strength.detach().cpu().double().numpy().reshape(1, -1)
        if tuple(strength.shape) not in {(), (n_users,)} or not (np.isfinite(hold) & (hold > 0)).all():
            raise InputError(f"strength must be positive, one number or ({n_users},), found {tuple(strength.shape)}")
    if precision is not None:
        _check_precision(precision, K)
    if prior is None:
        return np.full((K, 1), 1 / K), hold
    prior = tensor("prior", prior)
    if tuple(prior.shape) not in {(K,), (1, K), (n_users, K)}:
        raise InputError(f"prior must be ({K},) or ({n_users}, {K}), found {tuple(prior.shape)}")
    pi = np.atleast_2d(prior.detach().cpu().double().numpy()).T
    if not ((pi >= 0).all() and (abs(pi.sum(0) - 1) <= 1e-3).all()):  # NaN is neither
        raise InputError("prior must be at least 0 and sum to 1")
    pi = pi.clip(1e-9)
    return pi / pi.sum(0), hold


def _check_precision(precision: Tensor, K: int) -> None:
    """Refuses what is not symmetric and positive semi-definite."""
    if tuple(precision.shape) != (K, K):
        raise InputError(f"precision must be ({K}, {K}), found {tuple(precision.shape)}")
    matrix = precision.detach().cpu().double()
    size = float(matrix.abs().max())
    if not math.isfinite(size) or float((matrix - matrix.T).abs().max()) > 1e-4 * size:
        raise InputError("precision must be finite and symmetric")
    least = float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0])
    if least < -1e-4 * size:
        raise InputError(f"precision must have no negative eigenvalue, found {least:.3g}")
