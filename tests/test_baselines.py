"""Each personal baseline keeps the interface and finds its own simulated truth."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import pal
from pal._logistic import LinearRewards
from pal.baselines._features import _directions
from pal.baselines._newton import Tastes, solve_ridge
from pal.comparisons import Items
from pal.testing import tiny
from pal.training import TrainConfig
from truths import factors, ideal_points, linear, low_rank, opposites, simulated, two_camps

PERSONAL = ("factor", "lore", "metric", "per-user", "per-user-quadratic", "user-embedding", "vpl")
QUICK = TrainConfig(max_steps=40, batch_size=64)


def regret(name, simulation):
    """Log-loss on test answers above that of the truth, of the baseline and of the pooled one; the model; parts."""
    data, margin, _ = simulation
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1)
    model = pal.baselines.fit(name, parts.train, parts.validation, TrainConfig(max_steps=500))
    pooled = pal.baselines.fit("btl-linear", parts.train, parts.validation)
    best = bayes(data, margin, parts.test)
    losses = [pal.evaluate(m, parts.test, bootstrap=0).log_loss - best for m in (model, pooled)]
    return *losses, model, parts


def bayes(data, margin, part):
    """Log-loss of the true probabilities on a part, found by user and item."""
    key = lambda c: list(zip(c.user, c.left, c.right, c.user if c.prompt is None else c.prompt, strict=True))  # noqa: E731
    truth = dict(zip(key(data.comparisons), margin, strict=True))
    m = np.array([truth[k] for k in key(part.comparisons)])
    return float(np.mean(np.logaddexp(0, m) - part.comparisons.label * m))


TRUTHS = {
    "per-user": (linear, {}, 0.5),
    "per-user-quadratic": (ideal_points, {}, 0.5),
    "metric": (ideal_points, {}, 0.35),
    "lore": (low_rank, {}, 0.3),
    "user-embedding": (two_camps, {}, 0.35),
    "vpl": (opposites, {"users": 80, "per_user": 60}, 0.2),
    "factor": (factors, {"prompts": 1}, 0.5),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_each_finds_its_own_truth(name):
    truth, kind, share = TRUTHS[name]
    own, pooled, model, parts = regret(name, simulated(truth, **kind))
    assert own < share * pooled
    curve = pal.shot_curve(model, parts.unseen, shots=[0, 40], seeds=1)["accuracy"].to_list()
    assert curve[1] > curve[0] + 0.05, curve


def test_the_metric_is_found_up_to_scale():
    _, _, model, _ = regret("metric", simulated(ideal_points, per_user=200))
    features = model.shared.features
    vectors = features.response.numpy()  # L acts on features: the metric where items live is R M R'
    found = vectors @ model.metric.numpy() @ vectors.T
    true = np.diag([1.5**2, 1.0, 0, 0])
    assert (found * true).sum() / np.linalg.norm(found) / np.linalg.norm(true) > 0.97
    assert np.linalg.eigvalsh(model.metric.double().numpy()).min() > -1e-5


def test_lore_weights_are_on_the_simplex_and_can_be_given():
    parts = tiny(300, prompts=0).split(unseen_users=0.25, test=0.2, validation=0.2)
    model = pal.baselines.fit("lore", parts.train, parts.validation, QUICK)
    table = model.with_answers(parts.unseen).people.table
    assert torch.allclose(table.sum(1), torch.ones(len(table), dtype=table.dtype), atol=1e-5)
    assert bool((table >= 0).all())
    x = parts.test.responses[:3]
    same = model.reward(weights=model.people.table[0].numpy(), responses=x)
    np.testing.assert_allclose(same, model.reward(model.user_ids[0], responses=x), rtol=1e-5)
    with pytest.raises(pal.InputError, match="sum to 1"):
        model.reward(weights=[0.7] * table.shape[1], responses=x)


@pytest.mark.parametrize("prompts", [0, 5])
@pytest.mark.parametrize("name", PERSONAL)
def test_interface(name, prompts):
    parts = tiny(300, prompts=prompts).split(unseen_users=0.25, test=0.2, validation=0.2)
    model = pal.baselines.fit(name, parts.train, parts.validation, QUICK)
    p = pal.predict(model, parts.test)
    assert p.shape == (len(parts.test),)
    assert ((p > 0) & (p < 1)).all()
    again = pal.baselines.fit(name, parts.train, parts.validation, QUICK)
    assert np.array_equal(pal.predict(again, parts.test), p)
    # sides
    flipped = replace(parts.test, comparisons=parts.test.comparisons.swapped(np.ones(len(parts.test), dtype=bool)))
    np.testing.assert_allclose(pal.predict(model, flipped), 1 - p, atol=1e-5)
    # people: order of rows and ids do not matter, those it knew stay
    wider = model.with_answers(parts.unseen)
    assert pal.evaluate(wider, parts.unseen).n_unseen == 0
    np.testing.assert_allclose(pal.predict(wider, parts.test), p, atol=1e-6)
    shuffled = model.with_answers(parts.unseen.take(np.arange(len(parts.unseen))[::-1].copy()))
    np.testing.assert_allclose(pal.predict(shuffled, parts.unseen), pal.predict(wider, parts.unseen), atol=1e-4)
    # rewards
    table, x = parts.test.comparisons, parts.test.responses
    for row in range(5):
        prompt = parts.test.prompts[table.prompt[row]] if prompts else None
        sides = x[[table.left[row], table.right[row]]]
        rewards = model.reward(table.user_ids[int(table.user[row])], prompt=prompt, responses=sides)
        assert rewards.dtype == np.float32
        logit = float(np.log(p[row] / (1 - p[row])))
        assert float(rewards[0] - rewards[1]) == pytest.approx(logit, abs=1e-3 * max(1, abs(logit)))
    unseen = parts.unseen.comparisons.compact().user_ids[0]
    with pytest.raises(pal.UnknownUserError, match="unseen"):
        model.reward(unseen, prompt=prompt, responses=x[:2])
    if prompts:
        with pytest.raises(pal.InputError, match="takes a prompt"):
            model.reward("u0", responses=x[:2])
    with pytest.raises(pal.InputError, match=r"dimension|takes responses"):
        model.predict(replace(parts.test, responses=x[:, :4].copy()))


def test_newton_is_scikit_learns_regression_with_an_offset_of_zero():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(80, 3)), (rng.random(80) < 0.4).astype(float)
    rows, user = torch.arange(80), torch.arange(80) % 2
    tastes = Tastes(torch.from_numpy(x), torch.zeros(80), rows, user, torch.from_numpy(label), torch.ones(80), 2)
    found = solve_ridge(tastes, torch.zeros(3), 0.5)
    for i in range(2):
        reference = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000)
        np.testing.assert_allclose(found[i], reference.fit(x[i::2], label[i::2]).coef_[0], atol=1e-5)


def test_factor_knows_questions_by_id_and_says_of_others_the_pooled_margin_and_how_a_person_leans():
    data, _, x = simulated(factors, prompts=1, per_user=40)
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, by="prompt")
    model = pal.baselines.fit("factor", parts.train, parts.validation, QUICK)
    p = pal.predict(model, parts.test)
    table = parts.test.comparisons
    design = np.concatenate([np.eye(n)[each] for n, each in ((60, table.prompt), (40, table.user))], axis=1)
    logit = np.log(p / (1 - p)).astype(float)
    np.testing.assert_allclose(design @ np.linalg.lstsq(design, logit, rcond=None)[0], logit, atol=1e-5)
    # the same table in another order
    order = np.random.default_rng(1).permutation(len(x))
    table = parts.train.comparisons
    prompts = Items(table.prompts.ids.gather(order), None, "id")
    moved = replace(table, prompts=prompts, prompt=np.argsort(order).astype(np.int32)[table.prompt])
    same = replace(parts.train, comparisons=moved, prompts=parts.train.prompts[order])
    np.testing.assert_allclose(pal.predict(model, same), pal.predict(model, parts.train), atol=1e-5)


def test_factor_knows_how_a_person_leans_on_statements_nobody_answered():
    """Half of the people agree with nearly everything, half with hardly anything."""
    data, _, _ = simulated(
        lambda x, _, n: np.broadcast_to(3.0 * np.where(np.arange(n)[:, None] % 2, 1, -1), (n, len(x))), prompts=1
    )
    parts = data.split(unseen_users=0.0, test=0.2, validation=0.1, by="prompt")
    model = pal.baselines.fit("factor", parts.train, parts.validation, TrainConfig(max_steps=300))
    assert pal.evaluate(model, parts.test).accuracy_by_user > 0.85


@pytest.mark.parametrize("name", ["lore", "metric", "per-user", "user-embedding", "factor", "btl-linear", "majority"])
def test_what_is_shown_is_read_as_a_reward_model_reads_it(name):
    rng = np.random.default_rng(0)
    dishes = ["a soup", "a stew", "rice", "bread"]
    left = rng.integers(4, size=200)
    right = (left + rng.integers(1, 4, size=200)) % 4
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i % 8}" for i in range(200)],
        prompt=[("to cook?", "to eat?")[i % 2] for i in range(200)],
        left=[dishes[i] for i in left],
        right=[dishes[i] for i in right],
        label=(left < right).astype(float),
    )
    data = pal.embed(table, "hashing", prompt_mode="joint")
    model = pal.baselines.fit(name, data, data, QUICK)
    prompt = "to cook?"
    found = model.reward(prompt=prompt, responses=dishes)
    assert found[0] > found[3]
    for shown in ("one text", None, ["a", ""], ["a", None]):
        with pytest.raises(pal.InputError, match="responses"):
            model.reward(prompt=prompt, responses=shown)
    if name == "majority":
        wins = pal.baselines.fit("majority", pal.embed(table, "hashing"), data, QUICK)
        np.testing.assert_allclose(found, wins.reward(prompt=prompt, responses=dishes))  # of separate texts: the same
        return
    with pytest.raises(pal.InputError, match="as one text"):  # and not written out as numbers
        model.reward(prompt=prompt, responses=list(data.responses[:2]))
    with pytest.raises(pal.InputError, match="must be finite"):
        model.reward(prompt=prompt, responses=np.full((2, data.responses.shape[1]), np.nan, np.float32))
    with pytest.raises(pal.InputError, match="embeddings of responses must be"):
        model.reward(prompt=prompt, responses=np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("counts", [[3] * 8, [0, 1, 40, 2, 2, 0, 7]])
def test_people_with_any_number_of_answers_are_solved_at_once_as_alone(counts, monkeypatch):
    rng = np.random.default_rng(0)
    user = torch.from_numpy(rng.permutation(np.repeat(np.arange(len(counts)), counts)))
    n, m = len(user), 3
    x, label = torch.from_numpy(rng.normal(size=(n, m))), torch.from_numpy(rng.random(n))
    every, weight, pooled = torch.arange(n), torch.from_numpy(rng.random(n)), torch.tensor([0.5, 0.0, -1.0])

    def solved(of, n_users):
        rows = every[torch.isin(user, of)]
        where = torch.searchsorted(of, user[rows])
        tastes = Tastes(x, torch.zeros(n), rows, where, label[rows], weight[rows], n_users)
        return solve_ridge(tastes, pooled, 0.5)

    alone = torch.cat([solved(torch.tensor([i]), 1) for i in range(len(counts))])
    torch.testing.assert_close(solved(torch.arange(len(counts)), len(counts)), alone, rtol=0, atol=1e-5)
    monkeypatch.setattr("pal.baselines._newton._CELLS", 50)  # several blocks
    torch.testing.assert_close(solved(torch.arange(len(counts)), len(counts)), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["user-embedding", "vpl"])
def test_weights_that_are_all_alike_change_nothing_of_new_people(name):
    data, _, _ = simulated(two_camps, per_user=30)
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1)

    def weighing(part, c):
        weight = np.full(len(part), c, np.float32)
        return replace(part, comparisons=replace(part.comparisons, weight=weight))

    def predicted(c):
        train, few = weighing(parts.train, c), weighing(parts.unseen, c)
        model = pal.baselines.fit(name, train, weighing(parts.validation, c), QUICK)
        return pal.predict(model.with_answers(few), few)

    np.testing.assert_allclose(predicted(0.01), predicted(1.0), atol=2e-3)


def test_a_warm_start_ends_at_the_same_regression():
    rng = np.random.default_rng(0)
    x, label = torch.from_numpy(rng.normal(size=(60, 4))), torch.from_numpy(rng.random(60).round())
    weight = torch.ones(60, dtype=torch.float64)
    told = LinearRewards(torch.cat([x, torch.zeros(1, 4)]), torch.arange(60), torch.full((60,), 60), label, weight)
    cold, warm = told.solve(3.0), told.solve(3.0, told.solve(0.01))
    torch.testing.assert_close(warm, cold, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [4, 5])
def test_votes_as_chosen_and_rejected(seed):
    """Every difference is that of the same two responses, a matrix on which torch's eigh may not converge."""
    votes = pal.simulation.demo(100).to_frame().filter(pl.col("label") != 0.5)
    agree = pl.when(pl.col("label") == 1)
    frame = votes.select(
        "user_id",
        "prompt",
        chosen=agree.then("left").otherwise("right"),
        rejected=agree.then("right").otherwise("left"),
    )
    data = pal.embed(pal.Comparisons.from_frame(frame), "hashing")
    parts = data.split(unseen_users=0.2, test=0.1, validation=0.1, seed=seed)
    model = pal.baselines.fit("per-user", parts.train, parts.validation)
    assert pal.evaluate(model, parts.test, bootstrap=0).accuracy > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_features_of_answers_that_all_differ_in_one_direction(seed):
    """Votes as chosen and rejected: every difference is that of the same two responses."""
    random = np.random.default_rng(seed)
    one = torch.from_numpy(random.standard_normal(512)).float()
    x = torch.where(torch.from_numpy(random.random(1500) < 0.5), 1.0, -1.0)[:, None] * one
    directions = _directions(x, 64)
    assert directions.shape == (512, 1)
    assert torch.allclose((x @ directions).square().mean(), torch.tensor(1.0))


def test_an_answer_counts_in_the_majority_as_much_as_it_weighs():
    data = tiny(300, prompts=0, ties=0.0)
    label, rng = data.comparisons.label, np.random.default_rng(0)
    wrong = rng.random(300) < 0.6
    weight = np.where(wrong, 1e-3, 1.0).astype(np.float32)
    table = replace(data.comparisons, label=np.where(wrong, 1 - label, label), weight=weight)
    light = pal.baselines.fit("majority", replace(data, comparisons=table), data)
    without = pal.baselines.fit("majority", data.take(np.flatnonzero(~wrong)), data)
    np.testing.assert_allclose(light.predict(data), without.predict(data), atol=0.02)
