"""Where several prototypes begin: kinds of people, found in their answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import adjusted_rand_score

import pal
from pal._training import groups
from pal._training.alone import Alone
from pal._training.groups import _Mixture, user_groups
from pal.questions import Answers
from pal.training import tabulated, train


def people(kinds, users=120, answers=15, questions=300, rank=6, seed=0, size=3.0):
    """Answers of users of some kinds, the questions' vectors, and the kind of each user."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(questions, rank)) / rank**0.5
    offset = rng.normal(size=questions)
    direction = size * rng.normal(size=(kinds, rank))
    kind = np.arange(users) % kinds
    user = np.repeat(np.arange(users), answers)
    question = rng.integers(questions, size=len(user))
    odds = offset[question] + (x[question] * direction[kind[user]]).sum(1)
    label = rng.random(len(user)) < 1 / (1 + np.exp(-odds))
    given = Answers(torch.from_numpy(user), torch.from_numpy(question), torch.from_numpy(label).float())
    return given, torch.from_numpy(offset), torch.from_numpy(x), kind


def mixture_of(answers, offset, x):
    return _Mixture.of(answers, int(answers.user.max()) + 1, offset, x, Alone())


def anything(n, K, seed=0):
    return torch.softmax(torch.randn(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 30), st.integers(0, 10**6), st.floats(0.1, 30.0))
def test_no_step_makes_the_likelihood_smaller(K, users, seed, size):
    answers, offset, x, _ = people(min(K, 3), users, 6, 40, 4, seed, size)
    mixture = mixture_of(answers, offset, x)
    found = [mixture.fitted(anything(users, K, seed), steps) for steps in range(1, 8)]
    gains = np.diff([kinds.likelihood for kinds in found])
    assert (gains >= -1e-8 * np.abs(found[0].likelihood)).all()


def test_scipy_finds_nothing_better_nearby():
    """The oracle: minus the log of the posterior, written answer by answer, and L-BFGS from where EM has settled."""
    answers, offset, x, _ = people(3)
    settled = mixture_of(answers, offset, x).fitted(anything(120, 3), 300)

    def value(flat):
        direction, mass = flat[:-3].view(3, -1), torch.log_softmax(flat[-3:], 0)
        odds = offset[answers.question] + direction @ x[answers.question].T
        each = torch.nn.functional.logsigmoid(torch.where(answers.label > 0.5, odds, -odds))
        people = torch.zeros(3, 120, dtype=torch.float64).index_add_(1, answers.user, each)
        priors = mass.sum() - 0.5 * groups._RIDGE * direction.square().sum()
        return -(people + mass[:, None]).logsumexp(0).sum() - priors

    def with_gradient(flat):
        flat = torch.from_numpy(flat).requires_grad_()
        loss = value(flat)
        (grad,) = torch.autograd.grad(loss, flat)
        return loss.item(), grad.numpy()

    begin = torch.cat([settled.direction.flatten(), settled.mass.log()]).numpy()
    assert with_gradient(begin)[0] == pytest.approx(-settled.likelihood, rel=1e-9)
    found = minimize(with_gradient, begin, jac=True, method="L-BFGS-B")
    assert found.fun > -settled.likelihood - 1e-4


def test_an_answer_counts_as_often_as_its_weight_says():
    answers, offset, x, _ = people(2, users=40)
    once, twice = answers, answers.take(torch.arange(len(answers)).repeat_interleave(2))
    weighted = Answers(once.user, once.question, once.label, torch.full((len(once),), 2.0))
    begin = anything(40, 2)
    a, b = (mixture_of(each, offset, x).fitted(begin, 4) for each in (twice, weighted))
    torch.testing.assert_close(a.share, b.share)
    assert not torch.allclose(a.share, mixture_of(once, offset, x).fitted(begin, 4).share)


@pytest.fixture(scope="module")
def town():
    """300 people of three kinds with 19 training answers each, as the pooled model sees them, and the kind of each."""
    data = pal.simulation.population("b", 300, 3, 12, 24, "partition", 0, noise=0.2)
    config = pal.TrainConfig(model="b", map="linear", latent_dim=12, max_steps=300)
    parts = data.data.split(unseen_users=0.0, test=0.0, validation=0.2, seed=0)
    tables = tabulated(parts.train, parts.validation, config)
    pooled = train(parts.train, parts.validation, config, 1, tables=tables).begun.prototypes
    return tables, pooled, data.assignment


@pytest.mark.parametrize("K", [3, 5])
def test_kinds_are_found_from_few_answers(town, K):
    """k-means on the residuals, from which EM begins, does not tell them (.01)."""
    tables, pooled, kind = town
    share = user_groups(tables, pooled, K, torch.Generator().manual_seed(0), Alone())
    assert share.shape == (300, K)
    torch.testing.assert_close(share.sum(1), torch.ones(300))
    assert adjusted_rand_score(kind, share.argmax(1).numpy()) > 0.6
