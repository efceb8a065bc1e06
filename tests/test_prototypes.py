import copy
from dataclasses import replace

import pytest
import torch

from pal.maps import make_map
from pal.prototypes import FixedPrototypes, LinearPrototypes, PromptPrototypes, Terms
from pal.questions import tabulate
from pal.testing import tiny

D, d, K = 6, 4, 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def a_map(kind, in_dim=D, copies=1, seed=0):
    made = make_map(kind, in_dim, d, copies, hidden_dim=5, dropout=0.0, generator=generator(seed))
    made.input_scale.fill_(0.7)
    return shaken(made, seed)


def shaken(module, seed=0):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator(seed + 1))
    return module


def b(kind="linear", n=K, renormalize=False):
    return PromptPrototypes(a_map(kind), a_map(kind, copies=n, seed=5), renormalize)


def some(n=8):
    g = generator(3)
    weights = torch.softmax(torch.randn(n, K, generator=g), 1)
    return torch.randn(n, D, generator=g), torch.randn(n, D, generator=g), torch.randn(n, D, generator=g), weights


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("ideal", ["latent", "mixture_of_maps", "map_of_mixture"])
def test_model_a_is_the_squared_distance_from_the_ideal_point(kind, ideal):
    """Margins as the paper's equation 2 has them; rewards are so up to a constant per user."""
    left, right, _, weights = some()
    proto = FixedPrototypes(a_map(kind), K, ideal, generator=generator())
    f = proto.f

    def mapped_points(p):
        return f(p / f.input_scale)[:, 0]

    point = {
        "latent": lambda: weights @ proto.points,
        "mixture_of_maps": lambda: weights @ mapped_points(proto.points),
        "map_of_mixture": lambda: mapped_points(weights @ proto.points),
    }[ideal]()
    expected = -(f(left)[:, 0] - point).square().sum(1) + (f(right)[:, 0] - point).square().sum(1)
    found = proto.reward(None, left, weights) - proto.reward(None, right, weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_model_b_is_the_scaled_cosine(kind, renormalize):
    left, _, prompts, weights = some()
    proto = b(kind, renormalize=renormalize)
    x, g = proto.f(left)[:, 0], proto.g(prompts)
    z = (weights[:, :, None] * g / g.norm(dim=2, keepdim=True)).sum(1)
    if renormalize:
        z = z / z.norm(dim=1, keepdim=True)
    expected = 4.0 * (x * z).sum(1) / x.norm(dim=1)
    torch.testing.assert_close(proto.reward(prompts, left, weights), expected, rtol=1e-4, atol=1e-4)


def test_higher_is_preferred():
    """The response at a prototype's point (A), or in its direction (B), is that prototype's favourite."""
    a = FixedPrototypes(a_map("linear"), K, "mixture_of_maps", generator=generator())
    items = torch.cat([a.points.detach() / a.f.input_scale, torch.randn(20, D)])
    assert a.rewards(None, items).argmax(0).tolist() == [0, 1, 2]


def test_a_linear_map_of_a_mixture_is_a_mixture_of_maps():
    left, _, _, weights = some()
    one = FixedPrototypes(a_map("linear"), K, "map_of_mixture", generator=generator())
    two = FixedPrototypes(a_map("linear"), K, "mixture_of_maps", generator=generator())
    assert one.linear
    torch.testing.assert_close(one.reward(None, left, weights), two.reward(None, left, weights))


def test_linear_prototypes_are_dot_products():
    left, _, prompts, weights = some()
    proto = LinearPrototypes(2 * D, K)
    assert torch.equal(proto.rewards(prompts, left), torch.zeros(8, K))
    shaken(proto)
    expected = torch.cat([left, prompts], 1) @ proto.theta.T
    torch.testing.assert_close(proto.rewards(prompts, left), expected)
    torch.testing.assert_close(proto.reward(prompts, left, weights), (expected * weights).sum(1))


def every(n=K):
    return {
        "a": FixedPrototypes(a_map("mlp"), n, generator=generator()),
        "a-mixture_of_maps": FixedPrototypes(a_map("mlp"), n, "mixture_of_maps", generator=generator()),
        "a-map_of_mixture": FixedPrototypes(a_map("mlp"), n, "map_of_mixture", generator=generator()),
        "b": b("mlp", n),
        "b-renormalize": b("linear", n, renormalize=True),
        "linear": shaken(LinearPrototypes(D, n)),
    }


def asked(name, n=60):
    questions, rows = tabulate(tiny(n))
    if not name.startswith("b"):
        questions = replace(questions, prompts=None, prompt=None)
    return questions, rows


@pytest.mark.parametrize("name", sorted(every()))
def test_growing_makes_near_copies_of_one_prototype(name):
    pooled = every(1)[name]
    grown = copy.deepcopy(pooled)
    grown.grow(4, 1e-3, generator())
    assert (pooled.n_prototypes, grown.n_prototypes) == (1, 4)
    left, _, prompts, _ = some()
    prompts = prompts if name.startswith("b") else None
    before, after = pooled.rewards(prompts, left), grown.rewards(prompts, left)
    scale = float(before.detach().abs().max())
    torch.testing.assert_close(after, before.expand(8, 4), rtol=0.02, atol=0.02 * scale)
    assert float((after[:, 0] - after[:, 1]).detach().abs().max()) > 0


def without_skip():
    return FixedPrototypes(a_map("mlp", in_dim=d), K, "mixture_of_maps", generator=generator())


@pytest.mark.parametrize("name", [*sorted(every()), "a-linear", "a-without-skip"])
def test_rescaling_multiplies_margins(name):
    more = {"a-linear": FixedPrototypes(a_map("linear"), K, "mixture_of_maps", generator=generator())}
    proto = {**every(), **more, "a-without-skip": without_skip()}[name]
    left, right, prompts, weights = some()
    prompts = prompts if name.startswith("b") else None
    if name == "a-without-skip":
        left, right = left[:, :d], right[:, :d]

    def margin():
        return (proto.reward(prompts, left, weights) - proto.reward(prompts, right, weights)).detach()

    before = margin()
    proto.rescale(1.7)
    torch.testing.assert_close(margin(), 1.7 * before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("f", ["linear", "mlp", "without_skip"])
@pytest.mark.parametrize("length", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("factor", [1.0, 0.0, -2.0])
def test_settling_keeps_rewards(f, length, factor):
    """Training begins with the rewards it was given; what it makes of the curvature goes into map and points."""
    wide = d if f == "without_skip" else D
    proto = FixedPrototypes(a_map("linear" if f == "linear" else "mlp", in_dim=wide), K, generator=generator())
    left, right, _, weights = some()
    keys = list(proto.state_dict())

    def margin():
        found = proto.reward(None, left[:, :wide], weights) - proto.reward(None, right[:, :wide], weights)
        return found.detach() / found.detach().abs().max()

    with torch.no_grad():
        proto.points.mul_(length)
        given = margin()
        proto.loosen(fresh=False)
        torch.testing.assert_close(margin(), given, rtol=1e-3, atol=1e-4)
        assert abs(float(proto.curvature)) > 0, "at 0 its gradient is 0"
        proto.curvature.mul_(factor)
    trained = margin()
    proto.settle()
    torch.testing.assert_close(margin(), trained, rtol=1e-3, atol=1e-4)
    assert list(proto.state_dict()) == keys


@pytest.mark.parametrize("name", sorted(set(every()) - {"a"}))
def test_only_latent_points_have_a_curvature(name):
    proto = every()[name]
    before = copy.deepcopy(proto.state_dict())
    proto.loosen(fresh=True)
    assert list(proto.state_dict()) == list(before)
    assert all(torch.equal(after, before[key]) for key, after in proto.state_dict().items())


@pytest.mark.parametrize("name", sorted(every()))
def test_features_are_finite_and_of_bounded_width(name):
    questions, _ = asked(name)
    features = every(1)[name].features(questions)
    assert features.ndim == 2
    assert len(features) == len(questions)
    assert features.shape[1] <= 64 * 65
    assert torch.isfinite(features).all()
    swapped = every(1)[name].features(replace(questions, left=questions.right, right=questions.left))
    torch.testing.assert_close(swapped, -features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(every()))
def test_both_gradients_of_the_margin_are_right(name):
    proto = every()[name].double()
    questions, rows = asked(name)
    vectors = {"responses": questions.responses.double()}
    if questions.prompts is not None:
        vectors["prompts"] = questions.prompts.double()
    questions = replace(questions, **vectors)
    weights = torch.softmax(torch.randn(4, K, generator=generator(), dtype=torch.float64), 1).requires_grad_(True)
    question, user = rows[:9], torch.arange(9) % 4  # questions and users that repeat

    def margins(w):
        return proto.margin(proto.terms(questions), w, question, user)

    assert torch.autograd.gradcheck(margins, (weights,))
    for parameter in proto.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(margins(weights.detach()), margins(weights).detach())


@pytest.mark.parametrize("name", sorted(every()))
def test_moments_are_those_of_a_draw_of_a_prototype(name):
    proto = every()[name].double()
    questions, rows = asked(name)
    vectors = {"responses": questions.responses.double()}
    if questions.prompts is not None:
        vectors["prompts"] = questions.prompts.double()
    terms = proto.terms(replace(questions, **vectors))
    weights = torch.softmax(torch.randn(4, K, generator=generator(), dtype=torch.float64), 1)
    question, user = rows[:9], torch.arange(9) % 4
    mean, spread = proto.moments(terms, weights, question, user)
    torch.testing.assert_close(mean, proto.margin(terms, weights, question, user))
    if terms.margins is None:
        assert (spread == 0).all()
        return
    around = (terms.margins[question] - mean[:, None]).square()
    torch.testing.assert_close(spread, (weights[user] * around).sum(1))
    m, w = (x.detach().requires_grad_(True) for x in (terms.margins, weights))
    assert torch.autograd.gradcheck(lambda m, w: _moments(proto, m, w, question, user), (m, w))


def _moments(proto, margins, weights, question, user):
    # on the simplex, where the derivative of the spread in the weights is defined
    return proto.moments(Terms(margins=margins), weights / weights.sum(1, keepdim=True), question, user)


def test_prompts_are_needed_by_model_b():
    left, _, _, weights = some()
    for proto in (b(), b(renormalize=True)):
        with pytest.raises(TypeError, match="model B needs prompts"):
            proto.reward(None, left, weights)
        with pytest.raises(TypeError, match="model B needs prompts"):
            proto.rewards(None, left)
        with pytest.raises(TypeError, match="model B needs prompts"):
            proto.terms(asked("a")[0])


def test_a_zero_vector_has_a_finite_reward_and_gradient():
    proto = b()
    reward = proto.reward(torch.zeros(1, D), torch.zeros(1, D), torch.full((1, K), 1 / K))
    reward.sum().backward()
    assert float(reward.detach()) == 0.0
    assert all(torch.isfinite(p.grad).all() for p in proto.parameters() if p.grad is not None)
