"""Where several prototypes begin: kinds of people, found in their answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import adjusted_rand_score

import pal
from pal._training import groups, sample
from pal._training.alone import Alone
from pal._training.groups import _Mixture, user_groups
from pal.questions import Answers
from pal.training import Tabulated, train


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
@given(st.integers(1, 5), st.integers(2, 30), st.integers(0, 10**6), st.floats(0.1, 30.0), st.booleans())
def test_no_step_makes_the_likelihood_smaller(K, users, seed, size, surprised):
    answers, offset, x, _ = people(min(K, 3), users, 6, 40, 4, seed, size)
    if surprised:  # nearly all say what the pooled model does not expect: a whole Newton step goes too far
        offset = offset + 6.0
        answers = Answers(answers.user, answers.question, torch.from_numpy(np.arange(len(answers)) % 20 == 0).float())
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
    tables = Tabulated(parts.train, parts.validation).of(config)
    pooled = train(parts.train, parts.validation, config, 1, tables=tables).begun.prototypes
    return tables, pooled, data.assignment


@pytest.mark.parametrize("K", [3, 5])
def test_kinds_are_found_from_few_answers(town, K):
    """k-means on the residuals, from which EM begins, does not tell them (.01)."""
    tables, pooled, kind = town
    share, _ = user_groups(tables, pooled, K, torch.Generator().manual_seed(0), Alone())
    assert share.shape == (300, K)
    torch.testing.assert_close(share.sum(1), torch.ones(300))
    assert adjusted_rand_score(kind, share.argmax(1).numpy()) > 0.6


def test_the_likeliest_of_several_starts_goes_on(town, monkeypatch):
    tables, pooled, _ = town
    fitted, calls = _Mixture.fitted, []

    def noted(self, *given):
        calls.append((given, fitted(self, *given)))
        return calls[-1][1]

    monkeypatch.setattr(_Mixture, "fitted", noted)
    user_groups(tables, pooled, 5, torch.Generator().manual_seed(1), Alone())
    *starts, ((share, _, direction), _) = calls
    best = max((kinds for _, kinds in starts), key=lambda kinds: kinds.likelihood)
    assert len({round(kinds.likelihood) for _, kinds in starts}) > 1
    assert share is best.share
    assert direction is best.direction


def test_starts_that_differ_in_rounding_alone_are_the_first_in_every_process(town, monkeypatch):
    """Noiseless kinds are found from every start, in other orders: which is best must not hang on the last bit."""
    tables, pooled, _ = town
    fitted = _Mixture.fitted

    def found(noise):
        rng = np.random.default_rng(noise)

        def rounded(self, *args):
            kinds = fitted(self, *args)
            same = 1000.0 + rng.uniform(-1e-9, 1e-9)  # what all starts would have
            return replace(kinds, likelihood=same)

        monkeypatch.setattr(_Mixture, "fitted", rounded)
        return user_groups(tables, pooled, 3, torch.Generator().manual_seed(0), Alone())[0]

    first = found(0)
    assert all(torch.equal(found(seed), first) for seed in range(1, 5))


def test_a_user_of_very_many_answers_does_not_crowd_out_others(monkeypatch):
    monkeypatch.setattr(sample, "_SOME", 1000)
    for heavy in range(50):  # wherever they stand in the order in which users are drawn
        counts = torch.full((50,), 10.0)
        counts[heavy] = 5000.0
        tables = SimpleNamespace(counts=counts, user_ids=range(50))
        assert len(sample.Sample.of_users(tables, Alone()).rows) == 49
    tables = SimpleNamespace(counts=torch.full((50,), 5000.0), user_ids=range(50))  # where all are like that, one
    assert len(sample.Sample.of_users(tables, Alone()).rows) == 1


def test_a_step_that_goes_too_far_is_halved():
    answers, offset, x, _ = people(1, users=60)
    x = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
    few = torch.from_numpy(np.arange(len(answers)) % 20 == 0).float()  # say yes, where the pooled model has .998
    mixture = mixture_of(Answers(answers.user, answers.question, few), offset * 0 + 6.0, x)
    asked, yes = (torch.from_numpy(matrix.sum(0)).reshape(-1, 1) for matrix in (mixture.asked, mixture.yes))
    begin = torch.zeros(1, 7).double()
    losses = [mixture._loss(begin, asked, yes)]
    for _ in range(10):
        begin = mixture._better(begin, asked, yes)
        losses.append(mixture._loss(begin, asked, yes))
    assert float(losses[-1]) < 0.1 * float(losses[0])
