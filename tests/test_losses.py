import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pal import InputError
from pal.losses import LOSSES, get_loss, sigmoid_slope, smoothed_hinge

margins = st.floats(-50, 50)
labels = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(a=margins, b=margins, t=st.floats(0, 1), y=labels)
def test_losses_are_convex_and_positive(name, a, b, t, y):
    loss = get_loss(name)
    m = torch.tensor([a, b, t * a + (1 - t) * b], dtype=torch.float64)
    left, right, middle = loss(m, torch.full((3,), y, dtype=torch.float64))
    assert middle <= t * left + (1 - t) * right + 1e-6 * max(1, abs(left), abs(right))
    assert min(left, right, middle) >= 0


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(m=st.floats(-15, 15), y=labels)
def test_derivatives_are_those_of_the_loss(name, m, y):
    if name == "hinge" and abs(abs(m) - 1) < 1e-3:
        return
    loss, h = get_loss(name), 1e-4
    points = torch.tensor([m - h, m, m + h], dtype=torch.float64)
    low, middle, high = loss(points, torch.full((3,), y, dtype=torch.float64))
    first, second = loss.derivatives(points[1:2], torch.tensor([y], dtype=torch.float64))
    assert float(first) == pytest.approx(float(high - low) / (2 * h), rel=1e-4, abs=1e-4)
    near_kink = name == "smooth_hinge" and min(abs(abs(m) - 1), abs(m)) < 1e-3
    if not near_kink:
        scale = max(1.0, abs(float(middle)))
        assert float(second) == pytest.approx(
            float(high - 2 * middle + low) / h**2, rel=1e-3, abs=1e-6 * scale / h**1.5
        )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_extreme_margins_stay_finite(name):
    m = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = get_loss(name)(m, torch.tensor([1.0, 0.0]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(m.grad).all()


@pytest.mark.parametrize("name", ["logistic", "exponential"])
def test_the_link_is_where_the_expected_loss_is_least(name):
    loss = get_loss(name)
    for p in (0.2, 0.5, 0.9):
        best = minimize_scalar(lambda m, p=p: float(loss(torch.tensor(m), torch.tensor(p))), bounds=(-6, 6)).x
        assert 1 / (1 + math.exp(-loss.link * best)) == pytest.approx(p, abs=1e-3)


def test_the_rounded_hinge_approaches_the_hinge():
    m = torch.linspace(-3, 3, 101)
    gap = get_loss("hinge").value(m) - smoothed_hinge(1e-3).value(m)
    assert float(gap.min()) >= 0
    assert float(gap.max()) <= 1e-3


def test_the_slope_is_the_maximum_likelihood_one():
    rng = np.random.default_rng(0)
    m = torch.tensor(rng.normal(size=4000))
    y = torch.tensor((rng.random(4000) < 1 / (1 + np.exp(-2.5 * m.numpy()))).astype(float))
    best = minimize_scalar(
        lambda a: float(torch.nn.functional.binary_cross_entropy_with_logits(a * m, y)),
        bounds=(0.1, 10),
        method="bounded",
    ).x
    assert sigmoid_slope(m, y) == pytest.approx(best, rel=1e-2)
    assert sigmoid_slope(m[:0], y[:0], 2.0) == 2.0
    assert math.isfinite(sigmoid_slope(m, (m > 0).double()))


def test_an_unknown_loss_is_refused():
    with pytest.raises(InputError, match="use 'exponential', 'hinge', 'logistic' or 'smooth_hinge'"):
        get_loss("squared")


def test_a_weight_is_that_many_answers():
    rng = np.random.default_rng(1)
    m = torch.tensor(rng.normal(size=60))
    y = torch.tensor(rng.choice([0.0, 0.3, 1.0], size=60))
    times = torch.tensor(rng.integers(0, 4, size=60))
    repeated = sigmoid_slope(m.repeat_interleave(times), y.repeat_interleave(times))
    assert sigmoid_slope(m, y, weight=times.double()) == pytest.approx(repeated, rel=1e-6)


def test_the_slope_is_scikit_learns_where_there_is_much_to_learn_from():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    m = rng.normal(size=3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(-0.4 * m))).astype(int)
    reference = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10).fit(m[:, None], y).coef_[0, 0]
    assert sigmoid_slope(torch.tensor(m), torch.tensor(y)) == pytest.approx(reference, rel=1e-2)


@given(scale=st.floats(1e-6, 1e6), start=st.sampled_from([0.5, 1.0, 2.0]))
def test_the_slope_is_positive_and_finite_for_margins_of_any_size(scale, start):
    m = torch.tensor([-2.0, -1.0, 0.5, 1.0, 3.0]) * scale
    for label in ([0.0, 0, 1, 1, 1], [1.0, 1, 0, 0, 0], [0.5] * 5, [0.0, 1, 0, 1, 0]):
        slope = sigmoid_slope(m, torch.tensor(label), start)
        assert math.isfinite(slope)
        assert slope > 0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_loss_of_an_uncertain_margin_is_its_mean_to_second_order(name):
    loss, g = LOSSES[name], torch.Generator().manual_seed(0)
    margin = torch.tensor([-1.5, -0.3, 0.4, 2.5], dtype=torch.float64)
    label = torch.tensor([1.0, 0.0, 0.5, 0.8], dtype=torch.float64)
    variance = torch.full_like(margin, 0.01)
    drawn = margin + variance.sqrt() * torch.randn(200_000, 4, generator=g, dtype=torch.float64)
    mean = loss(drawn, label.expand_as(drawn)).mean(0)
    torch.testing.assert_close(loss.uncertain(margin, label, variance), mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(loss.uncertain(margin, label, 0 * variance), loss(margin, label))
    inputs = (margin.requires_grad_(True), variance.requires_grad_(True))
    assert torch.autograd.gradcheck(lambda m, v: loss.uncertain(m, label, v), inputs)
