"""Going on from a model (`start=`): what it had learned of people, sides and noise counts with the new answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
import small
from pal import TrainConfig
from pal.testing import tiny
from pal.users import Population

QUICK = {"map": "linear", "max_steps": 300}


@pytest.fixture(scope="module")
def population():
    """60 people, some of whose answers lean to the left whatever is asked."""
    data = pal.simulation.population("a", n_users=60, n_prototypes=3, dim=8, per_user=60, noise=0.3).data
    left = np.random.default_rng(0).random(len(data)) < 0.35
    label = np.where(left, 1, data.comparisons.label).astype(np.float32)
    return data, replace(data, comparisons=replace(data.comparisons, label=label))


def loss(model, data):
    return pal.evaluate(model, data, bootstrap=0).log_loss


def cut(data, answers):
    """The first so many rows of each person, and the others."""
    rows = np.argsort(data.comparisons.user, kind="stable")
    counts = data.comparisons.user_counts()
    place = np.empty(len(data), dtype=np.int64)
    place[rows] = np.concatenate([np.arange(n) for n in counts])
    return data.take(np.flatnonzero(place < answers)), data.take(np.flatnonzero(place >= answers))


def test_three_new_answers_do_not_make_old_ones_forgotten(population):
    parts = population[0].split(unseen_users=0.0, test=0.2, validation=0.1)
    first = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=3, **QUICK)).model
    new, others = cut(parts.test, 3)
    second = pal.fit(new, None, TrainConfig(**QUICK), start=first).model
    assert loss(second, others) < loss(first, others) + 0.02
    # an answer alone says far less of a person than they are known by
    assert loss(second, others) < loss(second.with_users(pal.adapt(second, new)), others) - 0.02
    assert first.users.n_comparisons.sum() + len(new) == second.users.n_comparisons.sum()


def test_a_side_bias_goes_on_being_learned(population):
    data = population[1]
    early = data.take(data.comparisons.user < 40).split(unseen_users=0.0, test=0.2, validation=0.1)
    first = pal.fit(early.train, early.validation, TrainConfig(n_prototypes=2, side_bias=True, **QUICK)).model
    assert first.config.side_bias > 0.3
    late = data.take(data.comparisons.user >= 40)
    second = pal.fit(late, None, TrainConfig(**QUICK), start=first).model
    assert second.config.side_bias > 0.3
    assert loss(second, early.test) < loss(first, early.test) + 0.02


def test_reliabilities_go_on_from_where_they_were():
    data = pal.simulation.population("a", n_users=12, n_prototypes=2, dim=4, per_user=30, noise=0.3).data
    first = pal.fit(data, None, TrainConfig(n_prototypes=2, reliability=True, **QUICK)).model
    known = first.with_users(replace(first.users, reliability=torch.full((12,), 3.0)))
    short = TrainConfig(map="linear", max_steps=1, last_passes=0)
    second = pal.fit(data.take(np.arange(0, len(data), 7)), None, short, start=known).model
    rows = torch.from_numpy(second.users.rows(known.user_ids).copy())
    np.testing.assert_allclose(second.users.reliability[rows], 3.0, rtol=0.1)


def test_a_warm_start_keeps_users_and_learns_from_new_comparisons():
    data = tiny(600, users=12)
    old, new = data.take(data.comparisons.user < 8), data.take(data.comparisons.user >= 4)
    config = TrainConfig(model="b", n_prototypes=2, **small.QUICK)
    first = pal.fit(old, config=config).model
    second = pal.fit(new, config=config, start=first).model
    assert set(second.user_ids) == {f"u{i}" for i in range(12)}
    assert pal.evaluate(second, new, bootstrap=0).log_loss < pal.evaluate(first, new, bootstrap=0).log_loss


def test_users_who_are_not_in_the_new_comparisons_keep_their_weights():
    data = tiny(600, users=12)
    old, new = data.take(data.comparisons.user < 8), data.take(data.comparisons.user >= 8)
    config = TrainConfig(model="b", n_prototypes=2, **small.QUICK)
    first = pal.fit(old, config=config).model
    before = [first.users.weights.clone(), *(p.clone() for p in first.state_dict().values())]
    second = pal.fit(new, config=config, start=first).model
    for user in first.user_ids:
        assert torch.equal(second.users.weights[second.users.row(user)], first.users.weights[first.users.row(user)])
    after = [first.users.weights, *first.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # the start is not changed


@pytest.fixture(scope="module")
def many():
    """A model of 84 people of three kinds, and others."""
    data = pal.simulation.population(
        "a", n_users=120, n_prototypes=3, dim=8, per_user=50, noise=0.3, kind="partition"
    ).data
    parts = data.split(unseen_users=0.3, test=0.3, validation=0.1)
    return pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=3, **QUICK)).model, parts


def new_people(model, parts):
    return pal.shot_curve(model, parts.unseen, shots=[0, 3], reserve=20)["log_loss"].to_numpy()


@pytest.mark.parametrize("n", [1, 3, 40])
def test_some_people_who_go_on_do_not_make_the_others_forgotten(many, n):
    model, parts = many
    people = np.unique(parts.test.comparisons.user)[:n]
    again = parts.test.take(np.flatnonzero(np.isin(parts.test.comparisons.user, people)))
    # one step: the maps stay, and what is learned of the population is what differs
    second = pal.fit(again, None, TrainConfig(map="linear", max_steps=1, last_passes=0), start=model)
    assert (new_people(second.model, parts) < new_people(model, parts) + 0.01).all()
    torch.testing.assert_close(second.model.population, model.population, rtol=0, atol=0.05)
    assert second.model.config.strength == model.config.strength


def test_people_of_a_new_kind_join_the_population(many):
    model, parts = many
    first = model.users.weights.argmax(1) == 0  # a model that has met no people of this kind
    alike = [name for name, mine in zip(model.user_ids, first, strict=True) if mine]
    without = model.without_users(alike)
    kept = ~(model.atoms.argmax(1) == 0)
    atoms, mass = model.atoms[kept], model.mass[kept] / model.mass[kept].sum()
    without = pal.RewardModel(without.config, without.prototypes, without.users, Population(atoms, mass))
    assert float(without.population[0]) < 0.2
    ids = parts.test.comparisons.user_ids
    rows = np.isin(ids.to_numpy()[parts.test.comparisons.user], alike)
    short = TrainConfig(map="linear", max_steps=1, last_passes=0)
    second = pal.fit(parts.test.take(np.flatnonzero(rows)), None, short, start=without).model
    assert float(second.population[0]) > float(without.population[0]) + 0.1


def test_a_density_of_a_continuum_is_kept_where_few_people_go_on(many):
    model, parts = many
    held = pal.RewardModel(model.config, model.prototypes, model.users, replace(model.prior, precision=torch.eye(3)))
    short = TrainConfig(map="linear", max_steps=1, last_passes=0)
    people = np.unique(parts.test.comparisons.user)[:3]
    again = parts.test.take(np.flatnonzero(np.isin(parts.test.comparisons.user, people)))
    second = pal.fit(again, None, short, start=held)
    assert second.metrics["few_shot_held_to"] == "normal"
    assert torch.equal(second.model.precision, held.precision)


def test_without_validation_answers_a_slope_stays(many):
    model, parts = many
    steep = model._with(slope=2.5)
    one = parts.test.take(np.unique(parts.test.comparisons.user, return_index=True)[1][:5])  # an answer each
    second = pal.fit(one, None, TrainConfig(map="linear", max_steps=1, last_passes=0), start=steep).model
    assert second.config.slope == pytest.approx(2.5, rel=0.01)
