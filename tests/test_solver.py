"""Weights of many users at once, and of one, beside an oracle."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pal
from pal._adaptation import one, solver
from pal._adaptation.problems import Problem
from pal._adaptation.solver import variances
from pal.adaptation import TOLERANCE, solve_weights
from pal.losses import LOSSES, get_loss


def problem(seed, n=20, K=4, scale=1.0, users=1):
    rng = np.random.default_rng(seed)
    m = torch.tensor(rng.normal(size=(n, K)) * scale)
    y = torch.tensor(rng.choice([0.0, 0.25, 0.5, 1.0], size=n))
    u = torch.tensor(rng.integers(users, size=n))
    return m, y, u


def objective(w, m, y, loss, prior, strength, weight=None, precision=None):
    w = torch.as_tensor(w, dtype=torch.float64)
    c = torch.ones_like(y) if weight is None else weight
    cost = (c * get_loss(loss)(m.double() @ w, y.double())).sum()
    normal = 0.0 if precision is None else 0.5 * (w - prior) @ precision @ (w - prior)
    return float(cost + strength * (prior * (prior.log() - w.log())).sum() + normal)


def least(m, y, loss, prior, strength, weight, precision=None):
    """The optimal value, and where it is, by cvxpy."""
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
    normal = 0.0 if precision is None else 0.5 * cp.quad_form(w - p, cp.psd_wrap(precision.numpy()))
    return cp.Problem(cp.Minimize(cost + divergence + normal), [cp.sum(w) == 1]).solve(solver=cp.CLARABEL), w.value


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # cvxpy of its own answer
@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("seed", range(12))
def test_the_solver_agrees_with_cvxpy(loss, seed, normal):
    rng = np.random.default_rng(seed)
    K = int(rng.integers(2, 9))
    m, y, u = problem(seed, n=int(rng.integers(1, 40)), K=K, scale=float(rng.choice([0.3, 1.0, 4.0])))
    prior = torch.tensor(rng.dirichlet(np.full(K, 2.0)))
    prior = (prior + 0.01) / (prior + 0.01).sum()
    weight = torch.tensor(rng.uniform(0.2, 3.0, size=len(y)))
    strength = float(rng.choice([0.1, 1.0, 10.0]))
    precision = None
    if normal:
        root = torch.tensor(rng.normal(size=(int(rng.integers(1, K + 1)), K)) * rng.choice([0.5, 5.0]))
        precision = root.T @ root  # of any rank
    found = solve_weights(m, y, u, 1, prior, strength, loss, weight, precision=precision)
    best, _ = least(m, y, loss, prior, strength, weight, precision)
    value = objective(found.weights[0].double().clamp(min=1e-30), m, y, loss, prior, strength, weight, precision)
    bound = TOLERANCE * max(1.0, abs(value))
    assert value <= best + 2 * bound
    assert float(found.gap[0]) <= bound
    assert value - best <= float(found.gap[0]) + 0.1 * bound  # the certificate holds (to cvxpy's own precision)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # any point tells how far ours is from the best
@pytest.mark.parametrize("loss", ["logistic", "hinge", "smooth_hinge"])
@pytest.mark.parametrize("scale", [30.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_certificate_is_of_the_weights_that_are_given(loss, scale, dtype):
    for seed in range(10):
        K = (2, 3, 6, 16)[seed % 4]
        m, y, u = problem(seed, n=1 + 2 * seed, K=K, scale=scale)
        m, prior = m.to(dtype), torch.full((K,), 1 / K, dtype=torch.float64)
        found = solve_weights(m, y, u, 1, prior, loss=loss)
        assert found.weights.dtype in (dtype, torch.float64)  # where float32 would cost the tolerance
        _, point = least(m, y, loss, prior, 1.0, torch.ones_like(y))
        point = torch.tensor(point).clamp(min=1e-12)
        ours, theirs = (objective(w, m, y, loss, prior, 1.0) for w in (found.weights[0], point / point.sum()))
        gap = float(found.gap[0])
        assert 0 <= gap <= TOLERANCE * max(1.0, ours)
        assert ours - theirs <= gap + 1e-9 * max(1.0, ours)
        plain = solve_weights(m, y, u, 1, prior, loss=loss, dtype=torch.float32)
        assert plain.weights.dtype == torch.float32
        ours = objective(plain.weights[0], m, y, loss, prior, 1.0)
        assert ours - theirs <= float(plain.gap[0]) + 1e-9 * max(1.0, ours)


def test_weights_are_float64_where_float32_would_cost_somebody_the_tolerance():
    """Separable answers with margins of some hundreds, on corners of the hinge."""
    random, users, n, K = torch.Generator().manual_seed(0), 200, 30, 20
    m = 300 * torch.randn(users * n, K, generator=random)
    user = torch.arange(users).repeat_interleave(n)
    truth = torch.distributions.Dirichlet(torch.ones(K)).sample((users,))
    y = ((m * truth[user]).sum(1) > 0).float()
    found, plain = (solve_weights(m, y, user, users, loss="hinge", dtype=kind) for kind in (None, torch.float32))
    assert (found.weights.dtype, plain.weights.dtype) == (torch.float64, torch.float32)
    assert float(plain.gap.max()) > TOLERANCE
    few = solve_weights(m / 300, y, user, users, loss="hinge")
    assert few.weights.dtype == torch.float32
    uniform = torch.full((K,), 1 / K, dtype=torch.float64)
    for u, gap in enumerate(found.gap.tolist()):
        mine = user == u
        assert gap <= TOLERANCE * max(1.0, objective(found.weights[u], m[mine], y[mine], "hinge", uniform, 1.0))
    with pytest.raises(pal.InputError, match=r"dtype must be torch.float32 or torch.float64"):
        solve_weights(m, y, user, users, dtype=torch.int64)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist])
def test_arrays_and_lists_are_solved_as_tensors_are(kind):
    m, y, u = (x.numpy() for x in problem(0, n=30, K=3, users=4))
    given = (m, y, u, 4, np.full(3, 1 / 3), np.full(4, 2.0))
    plain = solve_weights(*(torch.tensor(x) if isinstance(x, np.ndarray) else x for x in given))
    found = solve_weights(*(kind(x) if isinstance(x, np.ndarray) else x for x in given), weight=kind(np.ones(30)))
    assert torch.equal(found.weights, plain.weights)
    assert torch.equal(solve_weights(m, y, u, 4, strength=torch.tensor(2.0)).weights, plain.weights)
    assert torch.equal(solve_weights(m, y, u.astype(np.uint32), 4, strength=2.0).weights, plain.weights)
    around = {"precision": np.eye(3), "start": np.full((4, 3), 1 / 3)}
    given = {name: torch.tensor(x) for name, x in around.items()}
    assert torch.equal(solve_weights(m, y, u, 4, **around).weights, solve_weights(m, y, u, 4, **given).weights)
    with pytest.raises(pal.InputError, match="margins must be numbers"):
        solve_weights(m + 1j, y, u, 4)


def test_people_who_differ_in_one_direction_are_told_from_few_answers_by_a_normal_prior():
    rng = np.random.default_rng(0)
    users, n, K = 300, 12, 5
    way = torch.tensor([0.4, 0.4, -0.4, -0.4, 0.0], dtype=torch.float64)
    true = 0.2 + way * torch.tensor(rng.uniform(-0.5, 0.5, size=(users, 1)))
    m, u = torch.tensor(rng.normal(size=(users * n, K)) * 3), torch.arange(users).repeat_interleave(n)
    y = (torch.rand(len(m), generator=torch.Generator().manual_seed(0)) < torch.sigmoid((m * true[u]).sum(1))).double()
    precision = torch.inverse(torch.cov(true.T) + 1e-4 * torch.eye(K))
    normal = solve_weights(m, y, u, users, strength=0.1, precision=precision)
    others = [solve_weights(m, y, u, users, strength=strength) for strength in (1.0, 3.0, 10.0, 30.0)]
    error, *errors = (float((found.weights - true).square().sum(1).mean()) for found in (normal, *others))
    assert error < 0.7 * min(errors)
    spread, _ = variances(normal.weights, m, y, u, torch.full((K,), 1 / K), 0.1, precision=precision)
    z = (normal.weights - true) / spread.sqrt()
    assert 0.7 < float(z[:, :4].square().mean()) < 1.4  # as sure as it is right


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
    torch.testing.assert_close(found.weights.sum(1), torch.ones(users).double(), rtol=0, atol=1e-12)
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


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from(sorted(LOSSES)),
    n=st.integers(1, 40),
    K=st.sampled_from([2, 6, 64]),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e3]),
    strength=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_one_person_alone_is_solved_as_among_many(seed, loss, n, K, scale, strength):
    rng = np.random.default_rng(seed)
    m, y, u = problem(seed, n=n, K=K, scale=scale)
    prior, start = rng.dirichlet(np.full(K, 0.3), size=2)  # of which much is 0 or nearly
    c = rng.uniform(0.0, 3.0, size=n)
    w = one.solve_one(m.numpy(), y.numpy(), c, prior, strength, get_loss(loss), start)
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-6)
    held, weight = torch.from_numpy(prior).clamp(min=1e-9), torch.from_numpy(c)
    many = solve_weights(m, y, u, 1, held, strength, loss, weight).weights
    begun = solve_weights(m, y, u, 1, held, strength, loss, weight, torch.from_numpy(start)[None]).weights
    best, *others = (
        objective(x.clamp(min=1e-30), m, y, loss, held / held.sum(), strength, weight)
        for x in (many[0].double(), torch.from_numpy(w), begun[0].double())
    )
    assert max(others) <= best + TOLERANCE * max(1.0, best)


def test_one_person_is_left_to_the_solver_of_many_where_few_steps_do_not_reach(monkeypatch):
    m, y, _ = problem(0, n=20)
    given = (m.numpy(), y.numpy(), np.ones(20), np.full(4, 0.25), 1.0, get_loss("logistic"), np.full(4, 0.25))
    alone = one.solve_one(*given)
    monkeypatch.setattr(one, "_STEPS", 1)
    asked = []
    monkeypatch.setattr(one, "solve_weights", lambda *args: asked.append(1) or solve_weights(*args))
    np.testing.assert_allclose(one.solve_one(*given), alone, atol=5e-3)
    assert asked


def test_no_answers_gives_the_prior_and_duplicates_share():
    prior = torch.tensor([0.5, 0.3, 0.2])
    none = solve_weights(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, dtype=torch.long), 2, prior)
    torch.testing.assert_close(none.weights, prior.repeat(2, 1), rtol=0, atol=1e-6)
    m, y, u = problem(1, K=1)
    twice = solve_weights(m.repeat(1, 2), y, u, 1)
    torch.testing.assert_close(twice.weights[0, 0], twice.weights[0, 1], rtol=0, atol=1e-6)


def test_a_neighbour_with_enormous_margins_does_no_harm():
    m, y, u = problem(12, n=60, users=6)
    m[u == 0] = m[u == 0].sign() * 1.7e308
    found = solve_weights(m, y, u, 6)
    for i in range(1, 6):
        alone = solve_weights(m[u == i], y[u == i], u[u == i] * 0, 1)
        torch.testing.assert_close(found.weights[i : i + 1], alone.weights, rtol=0, atol=1e-4)
        assert float(found.gap[i]) <= TOLERANCE * 60


def test_labels_keep_their_precision():
    m, y = torch.tensor([[1e6, 0.0]]).double(), torch.tensor([1 - 2e-8], dtype=torch.float64)
    weight = torch.tensor([1000.0])
    found = solve_weights(m, y, torch.zeros(1, dtype=torch.long), 1, weight=weight)
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    best, _ = least(m, y, "logistic", prior, 1.0, weight.double())
    value = objective(found.weights[0].double(), m, y, "logistic", prior, 1.0, weight.double())
    assert value <= best + 2 * TOLERANCE * max(1.0, best)


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
        ({"strength": 0.0}, "strength must be a positive number"),
        (
            {"label": torch.zeros(1, 2)},
            r"margins must be \(B, K\), label, user and weight \(B,\): found \(1, 2\), \(1, 2\)",
        ),
        ({"margins": torch.zeros(1, 0)}, r"margins must be \(B, K\)"),
        ({"margins": torch.tensor(0.0)}, r"margins must be \(B, K\)"),
        ({"label": torch.tensor([2.0])}, r"label must lie in \[0, 1\]"),
        ({"user": torch.tensor([3])}, r"user must lie in \[0, 1\)"),
        ({"margins": torch.tensor([[torch.nan, 0.0]])}, "margins must be finite"),
        ({"prior": torch.tensor([0.5, 0.6])}, "sum to 1"),
        ({"prior": torch.tensor([torch.nan, 1.0])}, "sum to 1"),
        ({"precision": torch.full((2, 2), torch.nan)}, "precision must be finite and symmetric"),
        ({"precision": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "precision must be finite and symmetric"),
        ({"precision": -50 * torch.eye(2)}, "precision must have no negative eigenvalue, found -50"),
        ({"weight": torch.tensor([-1.0])}, "weight must be at least 0"),
        ({"precision": torch.eye(3)}, r"precision must be \(2, 2\), found \(3, 3\)"),
        ({"start": torch.full((1, 3), 1 / 3)}, r"start must be \(1, 2\), found \(1, 3\)"),
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


def test_ties_alone_pull_to_where_margins_are_small():
    m = torch.tensor([[4.0, 0.1, -4.0]]).repeat(30, 1)
    found = solve_weights(m, torch.full((30,), 0.5), torch.zeros(30, dtype=torch.long), 1)
    assert abs(float(found.weights[0] @ m[0].float())) < 0.2


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_soft_label_is_that_many_answers_of_each_kind(loss):
    m, _, _ = problem(2, n=6, K=3)
    soft = torch.tensor([0.25, 0.0, 1.0, 0.5, 0.75, 0.25], dtype=torch.float64)
    one = torch.zeros(6, dtype=torch.long)
    whole = solve_weights(m, soft, one, 1, loss=loss)
    parts = solve_weights(
        torch.cat([m, m]),
        torch.cat([torch.ones(6), torch.zeros(6)]),
        torch.cat([one, one]),
        1,
        loss=loss,
        weight=torch.cat([soft, 1 - soft]),
    )
    torch.testing.assert_close(whole.weights, parts.weights, rtol=0, atol=1e-2)


def test_the_order_of_answers_and_of_users_does_not_matter():
    m, y, u = problem(7, n=90, users=11)
    order = torch.from_numpy(np.random.default_rng(0).permutation(90))
    names = torch.from_numpy(np.random.default_rng(1).permutation(11))
    one, two = solve_weights(m, y, u, 11), solve_weights(m[order], y[order], names[u[order]], 11)
    torch.testing.assert_close(two.weights[names], one.weights, rtol=0, atol=1e-4)


def test_blocks_of_users_are_solved_as_all_at_once(monkeypatch):
    m, y, u = problem(8, n=300, K=5, users=40)
    whole = solve_weights(m, y, u, 40)
    monkeypatch.setattr("pal._adaptation.problems._CELLS", 5 * 5 * 7)
    cut = solve_weights(m, y, u, 40)
    torch.testing.assert_close(cut.weights, whole.weights, rtol=0, atol=1e-4)


def test_a_person_who_answered_ten_thousand_times_beside_people_who_did_once():
    m, y, _ = problem(9, n=10_020, K=64)
    u = torch.cat([torch.zeros(10_000), torch.arange(1, 21)]).long()
    found = solve_weights(m, y, u, 21)
    assert bool((found.gap <= TOLERANCE * 10_000).all())
    assert bool((found.gap[1:] <= TOLERANCE * 65).all())


def test_much_strength_stays_at_the_prior_and_little_leaves_it():
    m, y, u = problem(4, n=30, K=3)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    close = solve_weights(m, y, u, 1, prior, strength=1e6).weights
    torch.testing.assert_close(close, prior[None], rtol=0, atol=1e-3)
    favourite = solve_weights(m, (m[:, 2] > 0).double(), u, 1, prior, strength=1e-3).weights
    assert float(favourite[0, 2]) > 0.9


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_more_answers_make_weights_surer(loss):
    m, _, _ = problem(5, n=400, scale=0.3)
    y = (m[:, 0] > m[:, 1]).double()
    spread = []
    for n in (5, 50, 400):
        u = torch.zeros(n, dtype=torch.long)
        found = solve_weights(m[:n], y[:n], u, 1, loss=loss)
        spread.append(float(variances(found.weights, m[:n], y[:n], u, torch.full((4,), 0.25), 1.0, loss)[0].sum()))
    assert spread[0] > 1.5 * spread[1] > 3 * spread[2]


@pytest.mark.parametrize("users", [3, 80])  # one by one, and all at once
def test_covariances_are_those_of_the_hessian_along_the_simplex(users):
    m, y, u = problem(7, n=8 * users, users=users)
    prior, strength = torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), 2.0
    precision = torch.diag(torch.tensor([3.0, 1.0, 5.0, 2.0]).double())
    w = solve_weights(m, y, u, users, prior, strength, precision=precision).weights
    spread, total = variances(w, m, y, u, prior, strength, precision=precision)
    along = torch.linalg.svd(torch.eye(4).double() - 1 / 4)[0][:, :3]  # directions in which weights sum to 0
    expected = torch.zeros(4, 4).double()
    for i in range(users):
        own, at = m[u == i].double(), w[i].double()
        p = torch.sigmoid(own @ at)
        hessian = own.T @ (own * (p * (1 - p))[:, None]) + torch.diag(strength * prior / at.square()) + precision
        covariance = along @ torch.inverse(along.T @ hessian @ along) @ along.T
        torch.testing.assert_close(spread[i].double(), covariance.diagonal(), rtol=1e-3, atol=1e-7)
        expected += covariance
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-6)


def test_each_user_may_be_held_with_a_strength_of_their_own():
    m, y, u = problem(3, n=60, users=3)
    strength = torch.tensor([0.5, 4.0, 50.0])
    both = solve_weights(m, y, u, 3, strength=strength)
    for row in range(3):
        alone = solve_weights(m[u == row], y[u == row], u[u == row] * 0, 1, strength=float(strength[row]))
        torch.testing.assert_close(both.weights[row], alone.weights[0], rtol=0, atol=1e-4)
    prior = torch.full((4,), 0.25)
    spread = variances(both.weights, m, y, u, prior, strength)[0].sum(1)
    assert spread[0] > spread[1] > spread[2]
    for bad in (strength[:2], torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(pal.InputError, match="strength must be positive"):
            solve_weights(m, y, u, 3, strength=bad)


# -- adapt ------------------------------------------------------------------------------------------------------------


def test_a_search_in_which_nobody_moves_ends(monkeypatch):
    calls = []

    def rising(problem, z, w, loss):
        calls.append(w.shape[1])
        return np.full(w.shape[1], float(len(calls)))

    monkeypatch.setattr(Problem, "objective", rising)
    m = np.array([[[1.0, 2.0]], [[-1.0, 0.0]]])
    start, one = np.full((2, 2), 0.5), np.ones((1, 2))
    given = Problem(m, one, one, start[:, :1], one[:, :1])
    weights, gap, _ = solver._newton(given, get_loss("logistic"), start, 1e-12, 50)
    assert len(calls) == 41  # where it starts, and 40 times half as far
    np.testing.assert_array_equal(weights, start)
    assert (gap > 0).all()


@pytest.mark.parametrize("users", [3, 100])  # by LAPACK, and all at once
def test_one_singular_system_leaves_the_others_alone(users):
    matrices = np.repeat(np.eye(3)[:, :, None], users, axis=2)
    matrices[:, :, 1] = 0.0
    with np.errstate(all="ignore"):
        found = solver._solve(matrices, np.ones((3, 1, users)))
    others = np.arange(users) != 1
    np.testing.assert_array_equal(found[:, :, others], 1.0)
    assert not np.isfinite(found[:, :, 1]).any()


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"hinge"}))
@pytest.mark.parametrize("scale", [0.3, 2.0, 6.0])
def test_many_people_are_solved_as_each_alone(loss, scale, monkeypatch):
    """Many begin in float32, without a line search; a few are solved in float64 throughout."""
    users, n, K = 300, 15, 5
    m, y, _ = problem(11, n=users * n, K=K, scale=scale)
    u = torch.arange(users).repeat_interleave(n)  # all of them in one block
    began, newton = [], solver._newton
    monkeypatch.setattr(solver, "_newton", lambda *args, **more: began.append(args[2].dtype) or newton(*args, **more))
    y[u < 20] = (m[u < 20, 0] > m[u < 20, 1]).double()  # separable
    found = solve_weights(m, y, u, users, loss=loss)
    assert began[:2] == [np.float32, np.float64]
    prior = torch.full((K,), 1 / K, dtype=torch.float64)
    for i in range(0, users, 8):
        own = u == i
        alone = solve_weights(m[own], y[own], torch.zeros(int(own.sum()), dtype=torch.long), 1, loss=loss).weights[0]
        value, best = (objective(w.double(), m[own], y[own], loss, prior, 1.0) for w in (found.weights[i], alone))
        bound = TOLERANCE * max(1.0, best)
        assert abs(value - best) <= 2 * bound
        assert float(found.gap[i]) <= bound
