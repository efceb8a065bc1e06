import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pal
from pal.adaptation import TOLERANCE, solve_weights
from pal.losses import LOSSES, get_loss


def problem(seed, n=20, K=4, scale=1.0, users=1):
    rng = np.random.default_rng(seed)
    m = torch.tensor(rng.normal(size=(n, K)) * scale)
    y = torch.tensor(rng.choice([0.0, 0.25, 0.5, 1.0], size=n))
    u = torch.tensor(rng.integers(users, size=n))
    return m, y, u


def objective(w, m, y, loss, prior, strength, weight=None):
    w = torch.as_tensor(w, dtype=torch.float64)
    c = torch.ones_like(y) if weight is None else weight
    cost = (c * get_loss(loss)(m.double() @ w, y.double())).sum()
    return float(cost + strength * (prior * (prior.log() - w.log())).sum())


def least(m, y, loss, prior, strength, weight):
    """The optimal value, by cvxpy."""
    w = cp.Variable(m.shape[1])
    z, y, c = m.numpy() @ w, y.numpy(), weight.numpy()
    one = {
        "logistic": lambda t: cp.logistic(-t),
        "exponential": lambda t: cp.exp(-t),
        "hinge": lambda t: cp.pos(1 - t),
        "smooth_hinge": lambda t: cp.huber(cp.pos(1 - t), 1) / 2,
    }[loss]
    cost = cp.sum(cp.multiply(c * y, one(z)) + cp.multiply(c * (1 - y), one(-z)))
    p = prior.numpy()
    divergence = strength * (np.sum(p * np.log(p)) - cp.sum(cp.multiply(p, cp.log(w))))
    return cp.Problem(cp.Minimize(cost + divergence), [cp.sum(w) == 1]).solve(solver=cp.CLARABEL)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # cvxpy of its own answer
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("seed", range(12))
def test_the_solver_agrees_with_cvxpy(loss, seed):
    rng = np.random.default_rng(seed)
    K = int(rng.integers(2, 9))
    m, y, u = problem(seed, n=int(rng.integers(1, 40)), K=K, scale=float(rng.choice([0.3, 1.0, 4.0])))
    prior = torch.tensor(rng.dirichlet(np.full(K, 2.0)))
    prior = (prior + 0.01) / (prior + 0.01).sum()
    weight = torch.tensor(rng.uniform(0.2, 3.0, size=len(y)))
    strength = float(rng.choice([0.1, 1.0, 10.0]))
    found = solve_weights(m, y, u, 1, prior, strength, loss, weight)
    best = least(m, y, loss, prior, strength, weight)
    value = objective(found.weights[0].double().clamp(min=1e-30), m, y, loss, prior, strength, weight)
    bound = TOLERANCE * max(1.0, abs(value))
    assert value <= best + 2 * bound
    assert float(found.gap[0]) <= bound
    assert value - best <= float(found.gap[0]) + 0.1 * bound  # the certificate holds (to cvxpy's own precision)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from(sorted(LOSSES)),
    K=st.sampled_from([1, 2, 5, 64]),
    users=st.integers(1, 20),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_every_user_gets_a_point_on_the_simplex_and_a_certificate(seed, loss, K, users, scale):
    m, y, u = problem(seed, n=60, K=K, scale=scale, users=users)
    found = solve_weights(m, y, u, users, loss=loss)
    assert found.weights.shape == (users, K)
    assert torch.allclose(found.weights.sum(1), torch.ones(users), atol=1e-5)
    assert bool((found.weights >= 0).all())
    prior = torch.full((K,), 1 / K, dtype=torch.float64)
    for i in range(users):
        own = u == i
        w = found.weights[i].double().clamp(min=1e-30)
        assert float(found.gap[i]) <= TOLERANCE * max(1.0, objective(w, m[own], y[own], loss, prior, 1.0))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_extreme_margins_and_separable_answers(loss):
    rng = np.random.default_rng(0)
    m = torch.tensor(rng.normal(size=(40, 5)) * 1e4)
    y = (m[:, 0] > 0).double()
    found = solve_weights(m, y, torch.arange(40) % 4, 4, loss=loss)
    assert torch.isfinite(found.weights).all()
    prior = torch.full((5,), 0.2, dtype=torch.float64)
    for i in range(4):
        own = torch.arange(40) % 4 == i
        value = objective(found.weights[i].double().clamp(min=1e-30), m[own], y[own], loss, prior, 1.0)
        assert float(found.gap[i]) <= TOLERANCE * max(1.0, value)


def test_no_answers_gives_the_prior_and_duplicates_share():
    prior = torch.tensor([0.5, 0.3, 0.2])
    none = solve_weights(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, dtype=torch.long), 2, prior)
    torch.testing.assert_close(none.weights, prior.repeat(2, 1), rtol=0, atol=1e-6)
    m, y, u = problem(1, K=1)
    twice = solve_weights(m.repeat(1, 2), y, u, 1)
    torch.testing.assert_close(twice.weights[0, 0], twice.weights[0, 1], rtol=0, atol=1e-6)


def test_weight_zero_is_as_if_the_answer_were_not_there():
    m, y, u = problem(3, n=10)
    weight = torch.tensor([1.0] * 5 + [0.0] * 5)
    torch.testing.assert_close(
        solve_weights(m, y, u, 1, weight=weight).weights, solve_weights(m[:5], y[:5], u[:5], 1).weights
    )


def test_users_do_not_touch_one_another():
    m, y, u = problem(5, n=80, users=7)
    together = solve_weights(m, y, u, 7).weights
    for i in range(7):
        alone = solve_weights(m[u == i], y[u == i], u[u == i] * 0, 1).weights
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strength": 0.0}, "strength must be positive"),
        ({"label": torch.tensor([2.0])}, r"label must lie in \[0, 1\]"),
        ({"user": torch.tensor([3])}, r"user must lie in \[0, 1\)"),
        ({"margins": torch.tensor([[torch.nan, 0.0]])}, "margins must be finite"),
        ({"prior": torch.tensor([0.5, 0.6])}, "sum to 1"),
        ({"weight": torch.tensor([-1.0])}, "weight must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    good = {
        "margins": torch.zeros(1, 2),
        "label": torch.ones(1),
        "user": torch.zeros(1, dtype=torch.long),
        "n_users": 1,
    }
    with pytest.raises(pal.InputError, match=says):
        solve_weights(**{**good, **change})
