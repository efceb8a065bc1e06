"""The batched trainer finds what `pal.fit` finds on the same answers."""

import dataclasses

import numpy as np
import pytest
import torch

import pal
from pal.paper._batched import _random, _Run, train
from pal.paper._simulated import TEST, Stack, accuracy, aligned, reward_model, solved, unseen_accuracy
from pal.paper._stacks import Recipe

DIM, USERS, ANSWERS = 6, 40, 40
RECIPE = Recipe(steps=900)


@pytest.fixture(scope="module")
def data():
    return Stack.of(["partition", "mixture"], [0, 1], DIM, 3, USERS, ANSWERS, unseen=20)


@pytest.fixture(scope="module")
def models(data):
    return train(data.train, data.validation, DIM, (1, 2, 3), (0, 1), RECIPE)


def right_share(data, models, k):
    found, _ = models[k]
    return accuracy(found, solved(found, data), data.test).numpy()


def test_a_stack_has_the_answers_of_its_populations(data):
    for s, truth in enumerate(data.truth):
        left = truth.responses[truth.comparisons.left].reshape(-1, ANSWERS + TEST, DIM)[:USERS]
        right = truth.responses[truth.comparisons.right].reshape(-1, ANSWERS + TEST, DIM)[:USERS]
        label = truth.comparisons.label.reshape(-1, ANSWERS + TEST)[:USERS]
        n = ANSWERS - ANSWERS // 10
        np.testing.assert_allclose(data.train.difference[s].transpose(0, 1), (left - right)[:, :n], rtol=1e-6)
        np.testing.assert_allclose(data.test.total[s].transpose(0, 1), (left + right)[:, ANSWERS:], rtol=1e-6)
        np.testing.assert_array_equal(data.validation.label[s].T, label[:, n:ANSWERS])


@pytest.mark.parametrize("k", [1, 3])
def test_accuracy_is_that_of_fit(data, models, k):
    seen, n = slice(0, USERS), ANSWERS - ANSWERS // 10
    train_part, validation, test = (
        data.comparisons(1, seen, part) for part in (slice(0, n), slice(n, ANSWERS), slice(-TEST, None))
    )
    config = pal.TrainConfig(model="a", map="linear", latent_dim=DIM, n_prototypes=k, seed=1)
    fitted = pal.fit(train_part, validation, config).model
    wanted = float(np.mean((pal.predict(fitted, test) > 0.5) == (test.comparisons.label > 0.5)))
    assert abs(right_share(data, models, k)[1] - wanted) < 0.02


def test_the_right_number_of_prototypes_beats_fewer(data, models):
    one, two, three = (right_share(data, models, k) for k in (1, 2, 3))
    assert (three > 0.93).all()
    assert (three > two).all()
    assert (two > one).all()


def test_models_do_not_depend_on_those_beside_them(data, models):
    alone = train(data.train, data.validation, DIM, (3,), (0, 1), RECIPE)
    assert abs(right_share(data, alone, 3) - right_share(data, models, 3)).max() < 0.01


@pytest.mark.parametrize("ideal_point", ["latent", "map_of_mixture"])
def test_the_gradients_are_those_of_the_loss(data, ideal_point):
    recipe = Recipe(strength=0.0, ideal_point=ideal_point, user_lr=1e-12, lr=1e-12, prototype_lr=1e-12)
    start = _random(data.train, 4, (2, 3), (0, 1), recipe)
    free = dataclasses.replace(
        start,
        maps=start.maps.clone().requires_grad_(),
        points=start.points.clone().requires_grad_(),
        logits=start.logits.clone().requires_grad_(),
    )
    margin = free.margins(data.train)
    label = data.train.label[..., None].expand_as(margin)
    each = torch.nn.functional.binary_cross_entropy_with_logits(margin, label, reduction="none")
    each.mean((1, 2)).sum().backward()
    run = _Run(data.train, data.validation, start, recipe)
    seen = []
    run.users.step = lambda table, rows, grad: seen.append(grad)
    run._step(data.train)
    torch.testing.assert_close(run.models.maps.grad, free.maps.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(run.models.points.grad, free.points.grad, rtol=1e-4, atol=1e-6)
    total = data.train.label[0].numel()
    inside = torch.isfinite(start.logits).flatten()
    wanted = (total * free.logits.grad).flatten()[inside]
    torch.testing.assert_close(seen[0].flatten()[inside], wanted, rtol=1e-3, atol=1e-4)


def test_learned_ideal_points_are_the_true_ones(data, models):
    found, _ = models[3]
    weights = solved(found, data)
    for s in range(2):
        true = data.truth[s].ideal_points[:USERS]
        off = np.linalg.norm(aligned(found, weights, data, s).numpy() - true, axis=1)
        assert np.median(off) < 0.3 * np.sqrt((true**2).sum(1).mean())


def test_a_batched_model_adapts_as_any_other(data, models):
    found, _ = models[3]
    model = reward_model(found, data, 0)
    test = data.comparisons(0, slice(0, USERS), slice(-TEST, None))
    right = float(((model.margins(test) > 0).numpy() == (test.comparisons.label > 0.5)).mean())
    assert abs(right - right_share(data, models, 3)[0]) < 0.01
    none, many = unseen_accuracy(found, data, 0, (0, 30))
    assert none < 0.85
    assert many > 0.9


def test_random_starts_are_the_papers(data):
    recipe = Recipe(init="random", steps=200, drops=(), strength=0.0)
    found, loss = train(data.train, data.validation, DIM, (2,), (0, 1), recipe)[2]
    assert found.weights.shape == (2, 1, USERS, 2)
    assert (loss < 0.7).all()
