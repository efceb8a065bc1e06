from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal._adaptation.fitting import fit_weights
from pal._adaptation.prior import Prior
from pal.adaptation import solve_weights
from pal.losses import get_loss
from pal.questions import Answers
from pal.testing import tiny


@pytest.fixture(scope="module")
def known():
    data = pal.simulation.population("a", n_users=40, n_prototypes=3, dim=6, per_user=60, seed=2).data
    parts = data.split(unseen_users=0.3, seed=0)
    settings = {"n_prototypes": 3, "map": "linear", "max_steps": 300, "latent_dim": 6}
    return {
        partition: pal.fit(parts.train, parts.validation, pal.TrainConfig(partition=partition, **settings)).model
        for partition in (False, True)
    }, parts


@pytest.mark.parametrize("partition", [False, True])
def test_users_are_matched_by_id(known, partition):
    models, parts = known
    model, few = models[partition], parts.unseen
    shuffled = few.take(np.random.default_rng(3).permutation(len(few)))
    one, two = pal.adapt(model, few), pal.adapt(model, shuffled)
    assert sorted(one.user_ids) == sorted(two.user_ids)
    counts = dict(zip(few.comparisons.user_ids, few.comparisons.user_counts().tolist(), strict=True))
    for user in one.user_ids:
        i, j = one.row(user), two.row(user)
        torch.testing.assert_close(one.weights[i], two.weights[j], rtol=0, atol=1e-3)
        assert one.n_comparisons[i] == counts[user]
    alone = few.take(few.comparisons.user == few.comparisons.user[0])
    single = pal.adapt(model, alone)
    assert single.user_ids.to_list() == [few.comparisons.user_ids[int(few.comparisons.user[0])]]
    torch.testing.assert_close(single.weights[0], one.weights[one.row(single.user_ids[0])], rtol=0, atol=1e-3)


def test_the_shared_part_stays_as_it_is(known):
    models, parts = known
    before = {name: tensor.clone() for name, tensor in models[False].state_dict().items()}
    pal.adapt(models[False], parts.unseen)
    assert all(torch.equal(models[False].state_dict()[name], tensor) for name, tensor in before.items())
    assert set(models[False].user_ids).isdisjoint(pal.adapt(models[False], parts.unseen).user_ids)


@pytest.mark.parametrize("weighted", [False, True])
def test_in_a_partition_weights_are_how_probable_each_prototype_is(known, weighted):
    models, parts = known
    model, few = models[True], parts.unseen
    table = few.comparisons
    weight = np.random.default_rng(0).uniform(0.1, 3, len(few)).astype(np.float32) if weighted else None
    few = replace(few, comparisons=replace(table, weight=weight))
    users = pal.adapt(model, few)
    row = torch.from_numpy(users.rows(table.user_ids)[table.user])
    c = torch.ones(len(few)).double() if weight is None else torch.from_numpy(weight).double()
    label = torch.from_numpy(table.label).double()
    evidence = model.population.double().log().repeat(len(users), 1)
    for k in range(3):
        at_k = replace(users, weights=torch.eye(3)[k].repeat(len(users), 1))
        margin = model.config.slope * model.with_users(at_k).margins(few).double() + model.config.side_bias
        evidence[:, k].index_add_(0, row, -c * get_loss("logistic")(margin, label))
    torch.testing.assert_close(users.weights.double(), torch.softmax(evidence, 1), rtol=0, atol=1e-4)
    assert bool((users.gap == 0).all())


def test_in_a_partition_a_prior_says_how_probable_each_prototype_is(known):
    models, parts = known
    usual = pal.adapt(models[True], parts.unseen, prior=models[True].population)
    torch.testing.assert_close(usual.weights, pal.adapt(models[True], parts.unseen).weights, rtol=1e-3, atol=1e-4)
    # of so few answers that none is certain
    few = parts.unseen.take(np.unique(parts.unseen.comparisons.user, return_index=True)[1])
    one, other = (pal.adapt(models[True], few, prior=p).weights.double() for p in ([0.2, 0.3, 0.5], [0.8, 0.1, 0.1]))
    told = other / one * torch.tensor([0.25, 3.0, 5.0]).double()  # the answers' own part cancels
    torch.testing.assert_close(told, told[:, :1].expand(-1, 3), rtol=1e-3, atol=1e-4)


def test_prior_and_strength_can_be_given(known):
    models, parts = known
    prior = torch.tensor([0.8, 0.1, 0.1])
    users = pal.adapt(models[False], parts.unseen, strength=1e7, prior=prior)
    torch.testing.assert_close(users.weights, prior.expand(len(users), 3), rtol=0, atol=1e-3)


def test_data_of_another_encoder_are_refused(known):
    models, parts = known
    with pytest.raises(pal.InputError, match="the model takes responses of dimension 6, found 3"):
        pal.adapt(models[False], replace(parts.unseen, responses=parts.unseen.responses[:, :3]))


def test_nobody_is_adapted_to_no_answers(known):
    models, parts = known
    users = pal.adapt(models[False], parts.unseen.take([]))
    assert len(users) == 0
    assert len(models[False].with_users(users).users) == len(models[False].users)


def leaning(model, side_bias):
    return pal.RewardModel(replace(model.config, side_bias=side_bias), model.prototypes, model.users, model.prior)


def test_a_side_bias_is_taken_off_before_weights_are_told(known):
    models, parts = known
    model, prior = leaning(models[False], 2.0), np.full(3, 1 / 3)
    few = parts.unseen
    users = pal.adapt(model, few, prior=prior, strength=2.0)
    questions, rows = model.questions(few)
    margins = model.terms(questions).margins[rows] + 2.0 / model.config.slope
    answers = torch.from_numpy(few.comparisons.label.copy())
    _, user = np.unique(few.comparisons.user, return_inverse=True)
    wanted = solve_weights(margins, answers, torch.from_numpy(user), len(users), strength=2.0).weights
    torch.testing.assert_close(users.weights, wanted, rtol=0, atol=1e-3)
    assert float((users.weights - pal.adapt(models[False], few, prior=prior, strength=2.0).weights).abs().max()) > 0.02


def test_a_side_bias_is_taken_off_where_margins_are_not_linear():
    data = pal.simulation.population("a", n_users=20, n_prototypes=2, dim=6, per_user=40, seed=2).data
    parts = data.split(unseen_users=0.4, seed=0)
    curved = pal.TrainConfig(n_prototypes=2, ideal_point="map_of_mixture", hidden_dim=8, max_steps=60)
    model = leaning(pal.fit(parts.train, parts.validation, curved).model, 2.0)
    users = {bias: pal.adapt(leaning(model, bias), parts.unseen) for bias in (0.0, 2.0)}
    told = {bias: pal.evaluate(model.with_users(each), parts.unseen, bootstrap=0) for bias, each in users.items()}
    assert told[2.0].log_loss < told[0.0].log_loss


def test_a_persons_reliability_multiplies_the_margins_that_tell_of_them(known):
    models, parts = known
    model = models[False]
    questions, question = model.questions(parts.unseen)
    terms, table = model.terms(questions), parts.unseen.comparisons
    present, user = np.unique(table.user, return_inverse=True)
    answers = Answers(torch.from_numpy(user), question, torch.from_numpy(table.label.copy()), None)
    n, centre = len(present), model.population.expand(len(present), -1)
    found = fit_weights(model, terms, answers, n, Prior(centre, torch.zeros_like(centre), 3.0), torch.full((n,), 0.2))
    margins = 0.2 * terms.margins[question]
    wanted = solve_weights(margins, answers.label, answers.user, n, centre, 3.0)
    torch.testing.assert_close(found.weights, wanted.weights, rtol=0, atol=1e-4)


def test_so_it_does_where_margins_are_not_linear():
    parts = tiny(200, prompts=0).split(unseen_users=0.0)
    curved = pal.TrainConfig(n_prototypes=2, ideal_point="map_of_mixture", latent_dim=4, hidden_dim=8, max_steps=60)
    model = pal.fit(parts.train, parts.validation, curved).model
    questions, question = model.questions(parts.test)
    terms, table = model.terms(questions), parts.test.comparisons
    answers = Answers(
        torch.from_numpy(table.user.astype(np.int64)), question, torch.from_numpy(table.label.copy()), None
    )
    n = len(model.users)
    prior = Prior(model.population.expand(n, -1), torch.zeros(n, 2), 1.0)
    found = fit_weights(model, terms, answers, n, prior, torch.full((n,), 0.2))
    smaller = replace(terms, difference=0.2 * terms.difference, offset=0.2 * terms.offset)
    torch.testing.assert_close(found.weights, fit_weights(model, smaller, answers, n, prior).weights, rtol=0, atol=1e-3)
    assert (found.weights - fit_weights(model, terms, answers, n, prior).weights).abs().max() > 0.05
