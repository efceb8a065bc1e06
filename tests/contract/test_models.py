"""What every model and baseline keeps: run for each variant."""

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import pal
from pal.comparisons import Items
from pal.embeddings import EmbeddedComparisons
from pal.losses import get_loss
from pal.model import make_prototypes
from pal.questions import tabulate
from pal.testing import tiny
from pal.training import TrainConfig, model_config, train

QUICK = {"max_steps": 40, "latent_dim": 5, "hidden_dim": 7, "batch_size": 64}
VARIANTS = {
    f"a-{ideal}-{kind}-{prompt}": {"model": "a", "ideal_point": ideal, "map": kind, "prompt": prompt}
    for ideal in ("latent", "mixture_of_maps", "map_of_mixture")
    for kind in ("linear", "mlp")
    for prompt in ("none", "concatenate", "joint")
} | {
    f"b-{kind}{'-renormalized' if again else ''}": {"model": "b", "map": kind, "renormalize": again}
    for kind in ("linear", "mlp")
    for again in (False, True)
}
K = 3
BASELINES = ["btl", "btl-linear", "majority", "per-user"]


def joint(data):
    """The same answers, each response a text together with its prompt, with a vector of its own."""
    table = data.comparisons
    items = {name: getattr(table, name) for name in ("responses", "prompts")}
    texts = {name: Items(item.ids, item.ids, "text") for name, item in items.items()}
    joined = replace(table, **texts).joined()
    x = np.random.default_rng(1).normal(size=(len(joined.responses), data.responses.shape[1])).astype(np.float32)
    return EmbeddedComparisons(joined, x, None, prompt_mode="joint")


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def variant(request):
    settings = dict(VARIANTS[request.param])
    data = tiny()
    if settings.get("prompt") == "joint":
        data = joint(data)
        del settings["prompt"]
    parts = data.split(unseen_users=0.25, test=0.2, validation=0.2)
    config = TrainConfig(**settings, **QUICK)
    model = train(parts.train, parts.validation, config, K).model
    return model, parts, config


def any_prompt(data, row=0):
    """The prompt of a row, as `reward` takes it; of joint texts it is only asked for."""
    return "p0" if data.prompts is None else data.prompts[data.comparisons.prompt[row]]


@pytest.fixture(autouse=True)
def nothing_is_changed(request):
    """The variants are shared by the tests of this module."""
    if "variant" not in request.fixturenames:
        yield
        return
    model = request.getfixturevalue("variant")[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def embeddings(model, data):
    table = data.comparisons
    x = torch.from_numpy(data.responses)
    prompts = (
        torch.from_numpy(data.prompts)[torch.from_numpy(table.prompt.astype(int))] if model.config.prompt_dim else None
    )
    return prompts, x[torch.from_numpy(table.left.astype(int))], x[torch.from_numpy(table.right.astype(int))]


def weights_of(model, data):
    table, rows = model.weights_of(data.comparisons.user_ids)
    return table.weights[rows[torch.from_numpy(data.comparisons.user.astype(int))]]


def test_margins_through_questions_are_differences_of_rewards(variant):
    model, parts, _ = variant
    prompts, left, right = embeddings(model, parts.test)
    direct = model.margin(prompts, left, right, weights_of(model, parts.test))
    scale = float(direct.abs().max())
    torch.testing.assert_close(model.margins(parts.test), direct, rtol=1e-4, atol=1e-5 * scale)


def test_swapping_sides_negates_the_margin(variant):
    model, parts, _ = variant
    swapped = replace(parts.test, comparisons=parts.test.comparisons.swapped(np.ones(len(parts.test), dtype=bool)))
    torch.testing.assert_close(model.margins(swapped), -model.margins(parts.test), rtol=1e-5, atol=1e-5)


def test_the_order_of_prototypes_does_not_matter(variant):
    model, parts, _ = variant
    order = torch.tensor([2, 0, 1])
    prompts, left, right = embeddings(model, parts.test)
    weights = weights_of(model, parts.test)
    before = model.margin(prompts, left, right, weights)
    other = copy.deepcopy(model)
    per_prototype = 0
    with torch.no_grad():
        for name, parameter in other.prototypes.named_parameters():
            if name == "points" or name.startswith("g."):
                assert len(parameter) == K
                parameter.copy_(parameter[order])
                per_prototype += 1
    assert per_prototype
    after = other.margin(prompts, left, right, weights[:, order])
    scale = float(before.abs().max())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * scale)
    unmoved = other.margin(prompts, left, right, weights)
    assert float((unmoved - before).abs().max()) > 1e-4 * scale  # the prototypes were not all alike


def test_a_batch_equals_singles(variant):
    model, parts, _ = variant
    prompts, left, _ = embeddings(model, parts.test)
    weights = weights_of(model, parts.test).double()
    # in float64: the order of float32 sums depends on the shape, which costs more than 1e-6 where terms cancel
    reward = copy.deepcopy(model.prototypes).double().reward
    left, prompts = left.double(), None if prompts is None else prompts.double()
    with torch.no_grad():
        together = reward(prompts, left, weights)
        for i in range(len(left)):
            one = slice(i, i + 1)
            alone = reward(None if prompts is None else prompts[one], left[one], weights[one])
            assert float((alone - together[one]).abs() / together.abs().max()) < 1e-6


def test_linear_variants_are_a_dot_product_with_prototype_rewards(variant):
    model, parts, config = variant
    prompts, left, right = embeddings(model, parts.test)
    rho, other = model.prototype_rewards(prompts, left), model.prototype_rewards(prompts, right)
    assert rho.shape == (len(left), K)
    weights = weights_of(model, parts.test)
    margin = model.margin(prompts, left, right, weights)
    through = ((rho - other) * weights).sum(1)
    curved = config.renormalize or (config.model == "a" and config.ideal_point == "map_of_mixture")
    assert model.prototypes.linear == (not curved or (config.map == "linear" and config.model == "a"))
    if model.prototypes.linear:
        torch.testing.assert_close(through, margin, rtol=1e-4, atol=1e-5 * float(margin.abs().max()))
    # whatever the variant, a person at one prototype has its reward
    for k in range(K):
        corner = torch.eye(K)[k].expand(len(left), K)
        expected = rho[:, k] - other[:, k]
        scale = float(expected.abs().max())
        torch.testing.assert_close(model.margin(prompts, left, right, corner), expected, rtol=1e-4, atol=1e-5 * scale)


def test_gradients_are_those_of_finite_differences(variant):
    _, parts, config = variant
    shape = model_config(parts.train, config, 3)
    prototypes = make_prototypes(shape, torch.Generator().manual_seed(1)).double()
    assert prototypes.n_prototypes == K
    for parameter in prototypes.parameters():
        parameter.data += 0.1 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
    questions, _ = tabulate(parts.train)
    if shape.prompt == "concatenate":
        questions = questions.concatenated()
    doubled = {"responses": questions.responses.double()}
    if shape.prompt == "none":
        questions = replace(questions, prompts=None, prompt=None)
    if questions.prompts is not None:
        doubled["prompts"] = questions.prompts.double()
    questions = replace(questions, **doubled).take(torch.arange(7))
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    question, user = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])

    def value():
        margin = prototypes.margin(prototypes.terms(questions), torch.softmax(logits, 1), question, user)
        return torch.nn.functional.softplus(-margin).sum()

    leaves = [logits, *prototypes.parameters()]
    grads = torch.autograd.grad(value(), leaves, allow_unused=True)
    for leaf, grad in zip(leaves, grads, strict=True):
        flat = leaf.data.view(-1)
        for i in sorted({0, flat.numel() // 3, flat.numel() // 2, flat.numel() - 1}):
            old, h = flat[i].item(), 1e-6
            flat[i] = old + h
            high = value().item()
            flat[i] = old - h
            low = value().item()
            flat[i] = old
            expected = 0.0 if grad is None else grad.reshape(-1)[i].item()
            assert (high - low) / (2 * h) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_saved_model_predicts_the_same_bits(variant, tmp_path):
    model, parts, _ = variant
    model.save_pretrained(tmp_path / "model")
    again = pal.RewardModel.from_pretrained(tmp_path / "model")
    for part in (parts.test, parts.unseen):
        assert np.array_equal(pal.predict(model, part), pal.predict(again, part))


def test_new_users_are_adapted_and_forgotten(variant):
    model, parts, _ = variant
    users = pal.adapt(model, parts.unseen)
    assert users.user_ids.to_list() == parts.unseen.comparisons.compact().user_ids.to_list()
    assert torch.allclose(users.weights.sum(1), torch.ones(len(users)), atol=1e-5)
    assert bool((users.weights >= 0).all())
    wider = model.with_users(users)
    assert pal.evaluate(wider, parts.unseen).n_unseen == 0
    assert pal.evaluate(model, parts.unseen).n_unseen == len(users)
    fewer = wider.without_users([users.user_ids[0]])
    with pytest.raises(pal.UnknownUserError, match="is unseen: call"):
        fewer.reward(users.user_ids[0], prompt=any_prompt(parts.test), responses=parts.test.responses[:2])


def test_rewards_for_one_user_agree_with_predictions(variant):
    model, parts, _ = variant
    table = parts.test.comparisons
    x = parts.test.responses
    margins, p = model.margins(parts.test), pal.predict(model, parts.test)
    scale = float(margins.abs().max())
    for row in range(5):
        user = int(table.user[row])
        sides = x[[table.left[row], table.right[row]]]
        prompt = any_prompt(parts.test, row)
        rewards = model.reward(table.user_ids[user], prompt=prompt, responses=sides)
        assert rewards.dtype == np.float32
        assert float(rewards[0] - rewards[1]) == pytest.approx(float(margins[row]), rel=1e-3, abs=1e-4 * scale)
        certain = float(torch.sigmoid(model.config.slope * margins[row] + model.config.side_bias))
        assert min(certain, 0.5) - 1e-6 <= float(p[row]) <= max(certain, 0.5) + 1e-6  # uncertain weights moderate it
        weights = model.users.weights[model.users.row(table.user_ids[user])].numpy()
        again = model.reward(weights=weights, prompt=prompt, responses=sides)
        np.testing.assert_allclose(again, rewards, rtol=1e-5)


def test_unseen_users_have_the_populations_weights(variant):
    model, parts, _ = variant
    table = parts.unseen.comparisons
    sides = parts.unseen.responses[[table.left[0], table.right[0]]]
    rewards = model.reward(None, prompt=any_prompt(parts.unseen), responses=sides)
    margin = float(model.margins(parts.unseen)[0])
    assert float(rewards[0] - rewards[1]) == pytest.approx(margin, rel=1e-3, abs=1e-3)
    torch.testing.assert_close(model.population, model.users.weights.mean(0), rtol=0, atol=0.2)


def test_adapting_is_no_worse_than_the_prior_or_a_corner(variant):
    model, parts, _ = variant
    few = parts.unseen
    users = pal.adapt(model, few, strength=1.0, prior=model.population)
    prior = model.population.double().clamp(min=1e-9)
    label = torch.from_numpy(few.comparisons.label).double()
    row = torch.from_numpy(users.rows(few.comparisons.user_ids)[few.comparisons.user])

    def objective(weights):
        """(U,) of weights (U, K); rewards through `with_users`, so that users are matched by id."""
        table = replace(users, weights=weights)
        margin = model.with_users(table).margins(few).double()
        cost = get_loss("logistic")(margin, label)
        w = weights.double().clamp(min=1e-9)
        return torch.zeros(len(users)).double().index_add(0, row, cost) + (prior * (prior / w).log()).sum(1)

    found = objective(users.weights)
    starts = [model.population.repeat(len(users), 1)]
    starts += [(0.9 * torch.eye(K)[k] + 0.1 * model.population).repeat(len(users), 1) for k in range(K)]
    for start in starts:
        assert bool((found <= objective(start) * 1.001 + 1e-3).all())


def test_embeddings_may_be_arrays(variant):
    model, parts, _ = variant
    table = parts.test.comparisons
    arrays = [parts.test.prompts[table.prompt] if model.config.prompt_dim else None]
    arrays += [parts.test.responses[side] for side in (table.left, table.right)]
    prompts, left, right = (None if x is None else torch.from_numpy(x) for x in arrays)
    weights = model.population.repeat(len(left), 1)
    assert torch.equal(model.prototype_rewards(*arrays[:2]), model.prototype_rewards(prompts, left))
    assert torch.equal(model.margin(*arrays, weights.numpy()), model.margin(prompts, left, right, weights))
    with pytest.raises(pal.InputError, match=rf"^weights must be \({len(left)}, {model.n_prototypes}\), found"):
        model.margin(*arrays, weights[:, 1:])
    with pytest.raises(pal.InputError, match=r"^responses must be numbers: a tensor, an array or a list; found"):
        model.prototype_rewards(arrays[0], ["a text"])


def test_linear_variants_adapt_with_a_certificate(variant):
    model, parts, _ = variant
    gap = pal.adapt(model, parts.unseen).gap
    assert np.isfinite(gap).all() == model.prototypes.linear
    assert not model.prototypes.linear or (gap >= -1e-9).all()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("prompts", [0, 5])
def test_baselines_have_the_interface_of_a_model(name, prompts):
    parts = tiny(300, prompts=prompts).split(unseen_users=0.25, test=0.2, validation=0.2)
    model = pal.baselines.fit(name, parts.train, parts.validation, TrainConfig(**QUICK))
    p = pal.predict(model, parts.test)
    assert p.shape == (len(parts.test),)
    assert ((p > 0) & (p < 1)).all()
    assert set(model.user_ids) == set(parts.train.comparisons.compact().user_ids)
    metrics = pal.evaluate(model, parts.test)
    assert (metrics.n, metrics.n_unseen) == (len(parts.test), 0)
    assert pal.evaluate(model, parts.unseen).n_unseen == parts.unseen.comparisons.n_users
    sides = np.ones(len(parts.test), dtype=bool)
    swapped = replace(parts.test, comparisons=parts.test.comparisons.swapped(sides))
    if name != "majority":  # which knows on what side people answer
        np.testing.assert_allclose(pal.predict(model, swapped), 1 - p, atol=1e-5)
    again = pal.baselines.fit(name, parts.train, parts.validation, TrainConfig(**QUICK))
    assert np.array_equal(pal.predict(again, parts.test), p)
    curve = pal.shot_curve(model, parts.unseen, shots=[0, 5], seeds=2)
    assert curve["shots"].to_list() == [0, 5]
    responses = ["r0", "r1"] if name == "majority" else parts.test.responses[:2]
    prompt = None if not prompts else "p0" if name == "majority" else parts.test.prompts[0]
    assert model.reward("u0", prompt=prompt, responses=responses).shape == (2,)


@pytest.mark.filterwarnings("ignore:.* have the vector of another")
@pytest.mark.parametrize("name", sorted(pal.baselines.names.BASELINES))
def test_baselines_of_items_that_are_all_alike_say_one_half(name):
    data = tiny(80, prompts=0)
    data = replace(data, responses=np.ones_like(data.responses), comparisons=replace(data.comparisons, sided=False))
    model = pal.baselines.fit(name, data.take(np.arange(60)), data.take(np.arange(60, 80)), TrainConfig(max_steps=20))
    if name not in ("majority", "factor"):  # which know questions by their ids
        np.testing.assert_allclose(model.predict(data), 0.5, atol=1e-3)


def test_btl_is_pal_with_one_prototype():
    parts = tiny(300).split(unseen_users=0.25, test=0.2, validation=0.2)
    config = TrainConfig(**QUICK)
    pooled = pal.fit(parts.train, parts.validation, replace(config, n_prototypes=3, seed=3)).pooled
    for settings in ({"config": config, "seed": 3}, {"config": replace(config, seed=3)}):
        btl = pal.baselines.fit("btl", parts.train, parts.validation, **settings)
        assert np.array_equal(pal.predict(btl, parts.test), pal.predict(pooled, parts.test))


def test_btl_linear_is_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    from pal.baselines.linear import fit_linear

    data = tiny(400, prompts=0, ties=0.0)
    model = fit_linear(data, data.take([]), TrainConfig(), penalty=0.5)
    table = data.comparisons
    x = (data.responses[table.left] - data.responses[table.right]).astype(np.float64)  # in float32 it stops early
    reference = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, table.label)
    np.testing.assert_allclose(model.prototypes.theta.detach().numpy(), reference.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(data), reference.predict_proba(x)[:, 1], rtol=1e-4, atol=1e-6)


def test_majority_counts_both_orders_of_a_pair():
    data = tiny(50, prompts=0, ties=0.0)
    flipped = replace(data, comparisons=data.comparisons.swapped(np.arange(50) % 2 == 0))
    one, two = (pal.baselines.fit("majority", d, d) for d in (data, flipped))
    shares = {len(m.table): m.table.sort("first", "second")["n"].to_list() for m in (one, two)}
    assert len(shares) == 1
    assert isinstance(one.wins, pl.DataFrame)
