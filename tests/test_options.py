"""Options of training: a side bias, reliabilities, who counts, precision."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal import TrainConfig
from pal._training import holding
from pal._training.finish import finish, refitted
from pal._training.run import Run
from pal._training.tables import Tables
from pal.testing import tiny
from pal.training import model_config
from pal.users import UserWeights, simplex
from small import QUICK, parts_of


def users_of(run, tables, reliability=1.0):
    n = len(run.table)
    counts = torch.zeros(n, dtype=torch.long)
    return UserWeights(tables.user_ids, simplex(run.table[:, :-1]), counts, torch.full((n,), reliability))


@pytest.mark.parametrize(
    "option", [{"side_bias": True}, {"reliability": True}, {"balance_users": True}, {"precision": "bfloat16"}]
)
def test_options_train_and_predict(option):
    parts = parts_of(tiny(400))
    model = pal.fit(parts.train, parts.validation, TrainConfig(model="b", n_prototypes=2, **option, **QUICK)).model
    assert np.isfinite(pal.predict(model, parts.test)).all()


def test_a_left_bias_is_learned():
    data = tiny(4000, users=20, prompts=0, ties=0.0)
    rng = np.random.default_rng(0)
    label = np.where(rng.random(4000) < 0.4, 1.0, data.comparisons.label).astype(np.float32)
    biased = replace(data, comparisons=replace(data.comparisons, label=label))
    parts = parts_of(biased)
    config = TrainConfig(n_prototypes=1, **{**QUICK, "max_steps": 400})
    with_bias = pal.fit(parts.train, parts.validation, config).model
    without = pal.fit(parts.train, parts.validation, replace(config, side_bias=False)).model
    assert with_bias.config.side_bias > 0.3
    assert without.config.side_bias == 0
    assert pal.evaluate(with_bias, parts.test).log_loss < pal.evaluate(without, parts.test).log_loss - 0.02


def test_what_is_better_on_one_side_is_no_bias():
    """The left responses are by a better writer, which vectors show in part."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 300, 6))
    left[:, 0] += 0.5
    user, pair = np.repeat(np.arange(200), 12), random.integers(0, 300, 2400)
    margin = 1.0 + (left - right)[pair, 1]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        left_id=[f"l{i}" for i in pair],
        right_id=[f"r{i}" for i in pair],
        label=(random.random(2400) < 1 / (1 + np.exp(-margin))).astype(float),
    )
    ids = [f"{side}{i}" for side in "lr" for i in range(300)]
    data = pal.embed(table, embeddings=(ids, np.concatenate([left, right]).astype(np.float32)))
    parts = parts_of(data, unseen_users=0.0)
    assert pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=1)).model.config.side_bias == 0


@pytest.mark.parametrize("sided", [True, False])
def test_a_bias_is_learned_where_answers_show_it_alone(sided):
    data = pal.simulation.population("a", n_users=40, n_prototypes=2, dim=6, per_user=50, noise=0.5).data
    table = data.comparisons if sided else data.comparisons.swapped(data.comparisons.label < 0.5)
    parts = parts_of(replace(data, comparisons=replace(table, sided=sided)))  # chosen and rejected: all prefer the left
    config = TrainConfig(n_prototypes=2, map="linear", max_steps=200)
    assert pal.fit(parts.train, parts.validation, config).model.config.side_bias == 0
    assert (
        pal.fit(parts.train, parts.validation, replace(config, side_bias=True)).model.config.side_bias != 0 or not sided
    )


def test_the_bias_keeps_its_share_of_the_margins_when_they_get_back_their_size():
    parts = parts_of(tiny(), unseen_users=0.0)
    config = TrainConfig(n_prototypes=2, side_bias=True, **QUICK)
    shape = model_config(parts.train, config, 2)
    tables = Tables.of(parts.train, parts.validation, shape, config)
    run = Run(tables, shape, config, None)
    users = users_of(run, tables)
    done = finish(tables, shape, copy.deepcopy(run.prototypes), users, 0.3)
    assert done.size > 0
    one, two = (
        refitted(tables, replace(done, size=done.size * factor), copy.deepcopy(run.prototypes), users, 0.3)[0]
        for factor in (1.0, 2.0)
    )
    assert one.config.side_bias == pytest.approx(0.3 * one.config.slope)
    assert two.config.side_bias == pytest.approx(0.6 * two.config.slope)
    questions = one.questions(parts.test)[0]
    torch.testing.assert_close(two.terms(questions).margins, 2 * one.terms(questions).margins)


def test_with_a_bias_what_is_calibrated_is_what_is_predicted():
    data = tiny(600)
    leaning = np.maximum(data.comparisons.label, np.arange(600) % 2).astype(np.float32)
    parts = parts_of(replace(data, comparisons=replace(data.comparisons, label=leaning)), unseen_users=0.0)
    config = TrainConfig(model="b", n_prototypes=2, side_bias=True, refit=False, **QUICK)
    result = pal.fit(parts.train, parts.validation, config)
    assert abs(result.model.config.side_bias) > 0.01
    found = pal.evaluate(result.model, parts.validation, bootstrap=0).log_loss
    assert found == pytest.approx(result.metrics["validation_log_loss"], abs=1e-6)


@pytest.mark.parametrize("model", ["a", "b"])
def test_a_bias_beside_margins_that_say_nothing_is_not_made_larger_with_them(model):
    data = tiny(400, ties=0.0)
    soft = replace(data, comparisons=replace(data.comparisons, label=np.full(400, 0.8, np.float32)))
    parts = parts_of(soft)
    config = TrainConfig(model=model, n_prototypes=1, side_bias=True, **{**QUICK, "max_steps": 300})
    p = pal.predict(pal.fit(parts.train, parts.validation, config).model, parts.test)
    assert abs(p.mean() - 0.8) < 0.02


@pytest.mark.parametrize("option", [{"renormalize": True}, {"model": "a", "ideal_point": "map_of_mixture"}])
def test_bfloat16_trains_what_is_not_linear_in_the_weights(option):
    parts = parts_of(tiny(400))
    config = TrainConfig(n_prototypes=2, precision="bfloat16", **{"model": "b", **option}, **QUICK)
    result = pal.fit(parts.train, parts.validation, config)
    assert np.isfinite(pal.predict(result.model, parts.test)).all()
    assert result.metrics["few_shot_strength"] == result.model.config.strength  # of what `adapt` solves


def test_validation_answers_of_strangers_count_as_others_do_where_users_are_balanced():
    data = tiny(400, users=8)
    known = data.comparisons.user < 6
    held_out = np.random.default_rng(0).random(400) < 0.4
    train, validation = data.take(np.flatnonzero(known & ~held_out)), data.take(np.flatnonzero(held_out))
    config = TrainConfig(balance_users=True, **QUICK)
    tables = Tables.of(train, validation, model_config(train, config, 2), config).balanced(lambda n: n)
    weight, user = tables.val_answers.counting, tables.val_answers.user
    n = len(tables.user_ids)
    assert set(user.tolist()) == set(range(n + 1))
    assert bool((weight[user == n] == 1).all())
    sums = torch.bincount(user, weight)[:n]
    torch.testing.assert_close(sums, sums.mean().expand(n))
    assert float(weight[user < n].mean()) == pytest.approx(1)


@pytest.fixture(scope="module")
def half_of_them_guess():
    """Sixty people of two kinds; every other one gives four answers of five without looking."""
    data = pal.simulation.population("a", n_users=60, n_prototypes=2, dim=8, per_user=100, noise=0.5).data
    table, rng = data.comparisons, np.random.default_rng(0)
    guesses = (table.user % 2 == 1) & (rng.random(len(table)) < 0.8)
    label = np.where(guesses, rng.integers(0, 2, len(table)), table.label).astype(np.float32)
    return parts_of(replace(data, comparisons=replace(table, label=label)), unseen_users=0.0)


@pytest.mark.parametrize("n_prototypes", [1, 2])
def test_who_answers_without_looking_is_found_and_believed_less(half_of_them_guess, n_prototypes):
    parts = half_of_them_guess
    config = TrainConfig(n_prototypes=n_prototypes, map="linear", max_steps=100)
    plain = pal.fit(parts.train, parts.validation, config).model
    model = pal.fit(parts.train, parts.validation, replace(config, reliability=True)).model
    ids = parts.train.comparisons.user_ids
    learned = model.users.reliability[torch.from_numpy(model.users.rows(ids).copy())]
    assert float((learned[::2, None] > learned[None, 1::2]).float().mean()) > 0.95
    loss, before = (pal.evaluate(m, parts.test, bootstrap=0).log_loss for m in (model, plain))
    assert loss < before - 0.015


def test_a_reliability_is_drawn_towards_one_as_by_a_normal_prior_on_its_logarithm():
    parts = parts_of(tiny(), unseen_users=0.0)
    config = TrainConfig(n_prototypes=2, reliability=True, **QUICK)
    shape = model_config(parts.train, config, 2)
    run = Run(Tables.of(parts.train, parts.validation, shape, config), shape, config, None)
    run.table[:, -1] = torch.linspace(-1, 1, len(run.table))
    rows = torch.arange(run.drawn.n)

    def loss():
        return float(run._backward(run.drawn.tables, rows, len(rows))[0]) * len(rows)

    touched, grad = run._backward(run.drawn.tables, rows, len(rows))[1]
    for place, user in enumerate(touched[:4].tolist()):
        was = run.table[user, -1].clone()
        ends = []
        for step in (-1e-2, 1e-2):
            run.table[user, -1] = was + step
            ends.append(loss())
        run.table[user, -1] = was
        prior = 4 * float(was)  # of a standard deviation of one half: all of the person's answers are in the step
        assert float(grad[place, -1]) == pytest.approx((ends[1] - ends[0]) / 2e-2 + prior, abs=0.02)


def test_weights_are_told_from_answers_as_reliable_as_the_person(half_of_them_guess, monkeypatch):
    """An unreliable person's answers pull less: the weights stay nearer to what they are held to."""
    monkeypatch.setattr(holding, "STRENGTHS", {"mean": (10.0,)})
    parts = half_of_them_guess
    config = TrainConfig(n_prototypes=2, map="linear", max_steps=300)
    shape = model_config(parts.train, config, 2)
    tables = Tables.of(parts.train, parts.validation, shape, config)
    run = Run(tables, shape, config, None)
    run.train(None)
    each = (users_of(run, tables, reliability) for reliability in (1.0, 0.05))
    done = [finish(tables, shape, copy.deepcopy(run.prototypes), users, 0.0) for users in each]
    spread, less = (one.model.users.weights.std(0).max() for one in done)
    assert less < 0.3 * spread
