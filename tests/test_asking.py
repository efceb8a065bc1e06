import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal.adaptation import Person, next_comparison
from pal.model import RewardModel
from pal.testing import tiny
from small import three_groups


@pytest.fixture(scope="module")
def town():
    return three_groups(n_users=150)


def answers_of(parts, number):
    table = parts.unseen.comparisons
    return parts.unseen.take(np.flatnonzero(table.user == np.unique(table.user)[number]))


def test_a_person_answer_by_answer_is_the_person_all_at_once(town):
    model, parts = town
    few = answers_of(parts, 0).take(np.arange(12))
    person = Person(model)
    torch.testing.assert_close(person.weights, model.population)
    for row in range(12):
        person.answer(few.take(np.array([row])))
    assert len(person) == 12
    torch.testing.assert_close(person.weights, Person(model, few).weights, rtol=0, atol=2e-3)
    torch.testing.assert_close(person.weights, pal.adapt(model, few).weights[0], rtol=0, atol=2e-3)


def test_answers_that_tell_more_count_more(town):
    """A model whose training labels were soft takes an answer for as many of yes and no as tell as much."""
    model, parts = town
    few = answers_of(parts, 1).take(np.arange(2))
    few = replace(few, comparisons=replace(few.comparisons, label=np.array([0.6, 0.3], np.float32)))
    thrice = replace(few, comparisons=replace(few.comparisons, weight=np.full(2, 3.0, np.float32)))
    sharp = RewardModel(replace(model.config, noise=1 / 3), model.prototypes, model.users, model.prior)
    for known in (lambda it, answers: pal.adapt(it, answers).weights[0], lambda *it: Person(*it).weights):
        torch.testing.assert_close(known(sharp, few), known(model, thrice), rtol=0, atol=1e-5)
        assert not torch.allclose(known(sharp, few), known(model, few), rtol=0, atol=5e-5)
    hard = replace(few, comparisons=replace(few.comparisons, label=np.array([1.0, 0.0], np.float32)))
    for known in (lambda it: pal.adapt(it, hard).weights, lambda it: Person(it, hard).weights):
        assert torch.equal(known(sharp), known(model))  # who says yes or no tells no more than that
    asked = {"strength": 2.0, "prior": model.population}  # the objective that was asked for
    assert torch.equal(pal.adapt(sharp, few, **asked).weights, pal.adapt(model, few, **asked).weights)


def test_good_questions_find_a_person_in_fewer_answers(town):
    model, parts = town

    def right(ask, shots=4):
        correct = []
        for number in range(12):
            own = answers_of(parts, number)
            pool, test = own.take(np.arange(30)), own.take(np.arange(30, len(own)))
            person, left = Person(model), list(range(30))
            for _ in range(shots):
                row = left.pop(ask(person, pool.take(np.array(left)), number))
                person.answer(pool.take(np.array([row])))
            named = model.with_users(
                pal.adapt(model, test, prior=person.weights, strength=1e9)  # the person's weights, under their id
            )
            p = pal.predict(named, test)
            correct.append(np.mean((p > 0.5) == (test.comparisons.label > 0.5)))
        return np.mean(correct)

    rng = np.random.default_rng(0)
    asked = right(lambda person, pool, _: next_comparison(model, person, pool))
    random = right(lambda _, pool, __: int(rng.integers(len(pool))))
    assert asked > random + 0.02


def test_a_batch_does_not_ask_the_same_twice(town):
    model, parts = town
    pool = parts.unseen.take(np.arange(40))
    twice = pool.take(np.concatenate([np.arange(40), np.arange(40)]))
    rows = next_comparison(model, None, twice, n=40)
    assert len(set((rows % 40).tolist())) == 40
    assert rows[0] == next_comparison(model, None, twice)
    with pytest.raises(pal.InputError, match="questions left to ask, 40, found 41"):
        next_comparison(model, None, twice, n=41)


def test_a_person_is_not_asked_again_what_they_answered(town):
    model, parts = town
    pool = parts.unseen.take(np.arange(20))
    table = pool.comparisons
    other_side = replace(pool, comparisons=replace(table, left=table.right, right=table.left))
    for candidates in (pool, other_side):
        person, rows = Person(model, pool.take(np.arange(3))), {0, 1, 2}
        for _ in range(17):
            row = next_comparison(model, person, candidates)
            assert row not in rows
            rows.add(row)
            person.answer(candidates.take(np.array([row])))
        with pytest.raises(pal.InputError, match="all were answered"):
            next_comparison(model, person, candidates)
    few = Person(model, pool.take(np.arange(17)))
    assert set(next_comparison(model, few, pool, n=3).tolist()) == {17, 18, 19}
    with pytest.raises(pal.InputError, match="left to ask, 3"):
        next_comparison(model, few, pool, n=4)


def test_rows_that_ask_the_same_are_one_question(town):
    """As asked of many people, on either side; the cheapest of them is the row."""
    model, parts = town
    pool = answers_of(parts, 1).take(np.arange(20))
    rng = np.random.default_rng(0)
    again = rng.integers(20, size=300)
    many = pool.take(again)
    turned = rng.random(300) < 0.5
    table = many.comparisons
    sides = {"left": np.where(turned, table.right, table.left), "right": np.where(turned, table.left, table.right)}
    many = replace(many, comparisons=replace(table, **sides, label=np.where(turned, 1 - table.label, table.label)))
    best, found = next_comparison(model, None, pool, n=5), next_comparison(model, None, many, n=5)
    assert again[found].tolist() == best.tolist()
    assert all((again[:row] != again[row]).all() for row in found)  # of equal ones the first
    cost = rng.random(300) + 0.5
    row = next_comparison(model, None, many, cost=cost)
    assert cost[row] == cost[again == again[row]].min()


def test_cost_and_ties_count(town):
    model, parts = town
    pool = parts.unseen.take(np.arange(30))
    best = next_comparison(model, None, pool)
    cost = np.ones(30)
    cost[best] = 1e6
    assert next_comparison(model, None, pool, cost=cost) != best
    assert 0 <= next_comparison(model, None, pool, tie=0.2) < 30


def test_users_by_id_and_new_people(town):
    model, parts = town
    pool = parts.test
    known = model.user_ids[0]
    assert 0 <= next_comparison(model, known, pool) < len(pool)
    assert next_comparison(model, known, pool) == next_comparison(model, known, pool)  # one seed, one answer
    assert next_comparison(model, "nobody knows me", pool) == next_comparison(model, None, pool)


def test_bad_requests_are_refused(town):
    model, parts = town
    pool = parts.test.take(np.arange(3))
    for arguments, says in [
        ({"n": 4}, "n must be at most the number of questions left to ask, 3"),
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"cost": "dear"}, "cost must be 3 positive"),
        ({"seed": -1}, "seed must be"),
        ({"cost": [1, 2]}, "cost must be 3 positive"),
        ({"cost": [1, 2, 0]}, "cost must be 3 positive"),
        ({"tie": 0.5}, "tie must be a number of at least 0 and below 0.5"),
    ]:
        with pytest.raises(pal.InputError, match=says):
            next_comparison(model, None, pool, **arguments)
    for user in (np.full(3, 1 / 3), 2.5, True, pool):
        with pytest.raises(pal.InputError, match=r"^user must be the id of a user, a pal.Person or None, found"):
            next_comparison(model, user, pool)
    other = RewardModel(model.config, copy.deepcopy(model.prototypes), model.users, model.prior)
    with pytest.raises(pal.InputError, match="this person answered for another model"):
        next_comparison(other, Person(model), pool)
    for broken in (None, pal.baselines.fit("majority", pool, pool)):
        for use in (Person, lambda it: next_comparison(it, None, pool), lambda it: pal.adapt(it, pool)):
            with pytest.raises(pal.InputError, match=r"^model must be a pal.RewardModel, found"):
                use(broken)
    with pytest.raises(pal.InputError, match="no candidates"):
        next_comparison(model, None, pool.take(np.arange(0)))
    with pytest.raises(pal.InputError, match="one comparison at a time"):
        Person(model).answer(pool)
    for label in ("left", 2, float("nan")):
        with pytest.raises(pal.InputError, match="label must be a number from 0"):
            Person(model).answer(pool.take([0]), label)


def test_models_that_are_not_linear_in_the_weights_say_so():
    data = tiny(200, users=8)
    config = pal.TrainConfig(model="b", renormalize=True, n_prototypes=2, max_steps=20)
    model = pal.fit(data, None, config).model
    with pytest.raises(pal.InputError, match="not linear"):
        Person(model)
    with pytest.raises(pal.InputError, match="not linear"):
        next_comparison(model, None, data)
