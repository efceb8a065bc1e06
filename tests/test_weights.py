"""How much an answer counts: weights, soft labels, people who count alike."""

from dataclasses import replace

import numpy as np
import pytest

import pal
from pal import TrainConfig
from pal.testing import tiny
from pal.training import train
from small import QUICK, parts_of


def test_soft_labels_and_weights_count():
    data = tiny(400, ties=0.0)
    weight = np.where(data.comparisons.label == 1, 1.0, 1e-3).astype(np.float32)
    leaning = replace(data, comparisons=replace(data.comparisons, weight=weight))
    parts = parts_of(leaning)
    config = TrainConfig(model="b", n_prototypes=1, side_bias=True, **{**QUICK, "max_steps": 300})
    assert pal.predict(pal.fit(parts.train, parts.validation, config).model, parts.test).mean() > 0.6
    soft = replace(data, comparisons=replace(data.comparisons, label=np.full(400, 0.8, np.float32)))
    parts = parts_of(soft)
    p = pal.predict(pal.fit(parts.train, parts.validation, config).model, parts.test)
    assert abs(p.mean() - 0.8) < 0.08


def crowd_and_zealot(balance, validated_on_all):
    """Forty people answer three times, one person of the opposite taste four hundred times."""
    rng = np.random.default_rng(0)
    user = np.r_[np.repeat(np.arange(40), 3), np.full(400, 40)]
    left, right = rng.integers(0, 6, 520), rng.integers(6, 12, 520)
    x = rng.normal(size=(12, 4)).astype(np.float32)
    above = x[left, 0] > x[right, 0]
    ids = [f"r{i}" for i in range(12)]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{u}" for u in user],
        left_id=[ids[i] for i in left],
        right_id=[ids[i] for i in right],
        label=np.where(user == 40, ~above, above).astype(float).tolist(),
    )
    data = pal.embed(table, embeddings=(ids, x))
    config = TrainConfig(n_prototypes=1, map="linear", balance_users=balance, **{**QUICK, "max_steps": 200})
    model = pal.fit(data, data if validated_on_all else data.take(np.arange(123)), config).model
    return pal.evaluate(model, data.take(user < 40), bootstrap=0).accuracy


def test_balanced_each_person_counts_once():
    assert crowd_and_zealot(balance=True, validated_on_all=False) > 0.8
    assert crowd_and_zealot(balance=False, validated_on_all=True) < 0.2


def test_balanced_each_person_counts_once_in_validation_too():
    assert crowd_and_zealot(balance=True, validated_on_all=True) > 0.8


@pytest.mark.parametrize("balance_users", [False, True])
def test_weights_that_are_all_zero_are_refused(balance_users):
    parts = parts_of(tiny())
    weightless = replace(parts.train.comparisons, weight=np.zeros(len(parts.train), np.float32))
    config = TrainConfig(n_prototypes=2, balance_users=balance_users, **QUICK)
    with pytest.raises(pal.InputError, match=r"^all training comparisons have weight 0: give some of them a positive"):
        pal.fit(replace(parts.train, comparisons=weightless), parts.validation, config)


def test_balanced_people_are_known_by_their_own_answers():
    rng = np.random.default_rng(0)
    data = pal.simulation.population("a", n_users=30, n_prototypes=2, dim=4, per_user=60, noise=0.3).data
    few = data.comparisons.user < 10
    data = data.take(np.flatnonzero(~few | (rng.random(len(data)) < 0.1)))
    config = TrainConfig(n_prototypes=2, map="linear", balance_users=True, max_steps=150)
    users = pal.fit(data, None, config).model.users
    counts = users.n_comparisons
    assert users.concentration[counts < 20].median() < users.concentration[counts > 40].median() / 1.5


def test_weights_count_where_the_number_of_prototypes_is_chosen():
    parts = parts_of(tiny(400))
    weight = np.random.default_rng(0).choice([0.01, 1.0, 4.0], len(parts.validation)).astype(np.float32)
    heavy = replace(parts.validation, comparisons=replace(parts.validation.comparisons, weight=weight))
    result = train(parts.train, heavy, TrainConfig(**QUICK), 2)
    p = pal.predict(result.begun, heavy).astype(float)
    label = heavy.comparisons.label
    wanted = -(label * np.log(p) + (1 - label) * np.log1p(-p)) * weight / weight.mean()
    np.testing.assert_allclose(result.validation_loss, wanted, rtol=1e-3, atol=1e-4)


def test_the_size_of_all_weights_does_not_matter_to_one_reward_for_all():
    data = tiny(600, prompts=0)
    found = []
    for weight in (1.0, 10.0):
        table = replace(data.comparisons, weight=np.full(len(data), weight, np.float32))
        parts = parts_of(replace(data, comparisons=table))
        model = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=1, **QUICK)).model
        found.append(pal.predict(model, parts.test))
    np.testing.assert_allclose(found[1], found[0], atol=0.02)
