"""The population as a density on the simplex: learned from seen people, used for new ones."""

import itertools

import cvxpy as cp
import numpy as np
import polars as pl
import pytest
import torch

import pal
from pal._adaptation.prior import likeliest, mixed, population_of, posterior
from pal._training import holding
from pal.adaptation import solve_weights
from pal.model import ModelConfig, RewardModel, make_prototypes
from pal.prototypes import Terms
from pal.questions import Answers
from pal.users import Population, UserWeights, concentration_of
from small import three_groups


@pytest.fixture(scope="module")
def town():
    return three_groups(n_users=200)


def test_the_population_is_where_its_people_are(town):
    model, _ = town
    assert float(model.mass.sum()) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(model.atoms.sum(1), torch.ones(len(model.atoms)), atol=1e-4)
    torch.testing.assert_close(model.population, model.users.weights.mean(0), rtol=0, atol=1e-3)
    wanted = population_of(model.users.weights, model.users.concentration)  # solved ones, with how sure they are
    torch.testing.assert_close(model.atoms, wanted.atoms)
    torch.testing.assert_close(model.mass, wanted.mass)
    assert model.prior.concentration < 3  # three groups: people are far apart


def test_no_atom_is_a_person():
    """Two people alone far from the others are in none but as part of a mean of three."""
    near = torch.tensor([0.5, 0.3, 0.2]) + 0.1 * torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.cat([near, torch.tensor([[0.05, 0.05, 0.9], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])])
    weights = weights / weights.sum(1, keepdim=True)
    found = population_of(weights, torch.full((len(weights),), 1e9))
    assert len(found.atoms) > 1000
    drawn = found.atoms[:-4]  # after them the mean of all, and the corners
    assert float(torch.cdist(drawn, weights).min(0).values.median()) > 1e-3
    assert float(torch.cdist(drawn, weights[-3:]).min()) > 3e-3
    torch.testing.assert_close(found.mean, weights.mean(0), rtol=0, atol=1e-4)


def test_the_population_is_as_wide_as_people_are_and_are_unsure():
    """Weights known to a concentration of 20, drawn around a mean: their density has the variance of both."""
    alpha = torch.tensor([3.0, 2.0, 1.0])
    torch.manual_seed(0)
    weights = torch.distributions.Dirichlet(alpha).sample((600,))
    for concentration in (torch.inf, 20.0):
        found = population_of(weights, torch.full((600,), concentration))
        torch.testing.assert_close(found.mean, weights.mean(0), rtol=0, atol=1e-4)
        own = (weights * (1 - weights)).mean(0) / (concentration + 1)
        spread = found.mass @ (found.atoms - found.mean).square()
        torch.testing.assert_close(spread, weights.var(0) + own, rtol=0.1, atol=0)


@pytest.mark.parametrize("K", [2, 5, 64])
@pytest.mark.parametrize("concentration", [0.01, 3.0, torch.inf])
@pytest.mark.parametrize("n", [1, 2, 7, 400])
def test_any_people_make_a_density(K, concentration, n):
    generator = torch.Generator().manual_seed(n)
    for weights in (
        torch.rand(n, K, generator=generator) ** 8,  # most near a corner
        torch.eye(K)[torch.randint(K, (n,), generator=generator)],
        torch.full((n, K), 1 / K),
    ):
        weights = weights / weights.sum(1, keepdim=True)
        found = population_of(weights, torch.full((n,), concentration))
        assert bool((found.mass > 0).all())
        assert float(found.mass.sum()) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(found.atoms.sum(1), torch.ones(len(found.atoms)), atol=1e-4, rtol=0)
        torch.testing.assert_close(found.mean, weights.mean(0), rtol=0, atol=0.02)


def test_people_of_whom_there_are_no_answers_stay_what_they_were():
    """Ten rounds, in each of which five of 605 people answer."""
    torch.manual_seed(0)
    first = population_of(torch.distributions.Dirichlet(torch.tensor([3.0, 2.0, 0.5])).sample((600,)), torch.ones(600))
    population = first
    for _ in range(10):
        few = population_of(torch.tensor([[0.5, 0.3, 0.2]]).repeat(5, 1), torch.full((5,), 20.0))
        population = mixed(few, 5.0, population, 600.0)
    assert len(population.atoms) < 3000
    share = 1 - (600 / 605) ** 10  # of those who answered
    wanted = (1 - share) * first.mean + share * torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(population.mean, wanted, rtol=0, atol=1e-3)
    spread = (first.mass @ (first.atoms - first.mean).square()).sum()
    wider = (population.mass @ (population.atoms - population.mean).square()).sum()
    assert float(wider) == pytest.approx(float((1 - share) * spread), rel=0.05)


def test_the_likeliest_masses_are_those_of_a_convex_solver():
    """The masses to begin from count as 20 people; 30 steps of EM come near the maximum."""
    generator = torch.Generator().manual_seed(0)
    n, atoms = 60, torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [1 / 3, 1 / 3, 1 / 3]])
    margins = 3 * torch.randn(200, 3, generator=generator)
    user, question = torch.arange(n).repeat_interleave(10), torch.randint(200, (10 * n,), generator=generator)
    kind = torch.randint(2, (n,), generator=generator)  # nobody is of the third kind
    p = torch.sigmoid(margins[question, kind[user]])
    label = (torch.rand(10 * n, generator=generator) < p).float()
    config = ModelConfig("a", n_prototypes=3, map="linear", response_dim=3, latent_dim=3)
    prototypes = make_prototypes(config, torch.Generator().manual_seed(0))
    begin = Population(atoms, torch.full((4,), 0.25))
    model = RewardModel(config, prototypes, UserWeights.none(3), begin)
    found = likeliest(begin, model, Terms(margins=margins), Answers(user, question, label), n)
    z = (margins @ atoms.T)[question].double()
    each = torch.where(label[:, None] > 0.5, z, -z).sigmoid().log()
    likelihood = torch.zeros(n, 4, dtype=torch.float64).index_add_(0, user, each).exp().numpy()
    mass = cp.Variable(4)
    value = cp.sum(cp.log(likelihood @ mass)) + 20 * cp.sum(cp.log(mass)) / 4
    best = cp.Problem(cp.Maximize(value), [cp.sum(mass) == 1]).solve()
    mass.value = found.mass.double().numpy()
    assert float(value.value) > best - 1e-3
    assert float(found.mass[2]) < 0.12 < 0.3 < float(found.mass[:2].min())


def test_the_posterior_is_bayes_rule(town):
    model, parts = town
    few = parts.unseen.take(np.arange(200))
    questions, rows = model.questions(few)
    terms = model.terms(questions)
    user = torch.from_numpy(np.unique(few.comparisons.user, return_inverse=True)[1])
    label = torch.from_numpy(few.comparisons.label)
    mean, variance = posterior(model, model.prior, terms, Answers(user, rows, label), int(user.max()) + 1)
    for i in range(int(user.max()) + 1):
        own = user == i
        z = model.config.slope * (terms.margins[rows[own]] @ model.atoms.T).double() + model.config.side_bias
        y, log_p = label[own, None], torch.nn.functional.logsigmoid
        likelihood = (y * log_p(z) + (1 - y) * log_p(-z)).sum(0)
        share = torch.softmax(likelihood + model.mass.double().log(), 0)
        expected = share @ model.atoms.double()
        torch.testing.assert_close(mean[i].double(), expected, rtol=0, atol=1e-3)
        spread = share @ (model.atoms.double() - expected).square()
        torch.testing.assert_close(variance[i].double(), spread, rtol=0, atol=1e-3)


def test_pieces_of_users_are_the_same_as_all_at_once(town, monkeypatch):
    model, parts = town
    whole = pal.adapt(model, parts.unseen)
    monkeypatch.setattr("pal._adaptation.prior._CELLS", 50 * len(model.mass))
    cut = pal.adapt(model, parts.unseen)
    torch.testing.assert_close(cut.weights, whole.weights, rtol=0, atol=2e-3)


def test_more_answers_make_surer_and_never_worse(town):
    model, parts = town
    curve = pal.shot_curve(model, parts.unseen, shots=[0, 1, 3, 10, 30], reserve=30)
    losses = curve["log_loss"].to_list()
    assert all(later < before + 0.01 for before, later in itertools.pairwise(losses))
    assert curve["accuracy_by_user"][-1] > curve["accuracy_by_user"][0] + 0.1
    few = pal.adapt(model, parts.unseen.take(np.flatnonzero(parts.unseen.comparisons.user % 2 == 0)[:60]))
    many = pal.adapt(model, parts.unseen)
    assert float(many.concentration.median()) > float(few.concentration.min())
    assert bool((many.sd <= 0.5).all())


def test_a_prior_a_user_is_the_same_as_one_by_one():
    rng = np.random.default_rng(0)
    m = torch.tensor(rng.normal(size=(60, 4)), dtype=torch.float32)
    y = torch.tensor(rng.integers(2, size=60), dtype=torch.float32)
    user = torch.arange(60) % 6
    priors = torch.tensor(rng.dirichlet(np.ones(4), size=6), dtype=torch.float32)
    together = solve_weights(m, y, user, 6, priors, strength=2.0)
    for i in range(6):
        alone = solve_weights(m[user == i], y[user == i], user[user == i] * 0, 1, priors[i], strength=2.0)
        torch.testing.assert_close(together.weights[i], alone.weights[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("K", [3, 6, 30])
def test_many_users_at_once_agree_with_a_few(K):
    """Large batches take the float32 way; every certificate is checked in float64 from the margins."""
    g = torch.Generator().manual_seed(K)
    users = 3000
    counts = torch.randint(0, 30, (users,), generator=g)
    user = torch.arange(users).repeat_interleave(counts)
    m = 3 * torch.randn(len(user), K, generator=g)
    y = torch.randint(0, 2, (len(user),), generator=g).float()
    found = solve_weights(m, y, user, users, strength=0.5)
    w = found.weights.double()
    z = (m.double() * w[user]).sum(1)
    first = torch.sigmoid(z) - y.double()
    grad = torch.zeros(users, K, dtype=torch.float64).index_add_(0, user, first[:, None] * m.double()) - 0.5 / K / w
    value = torch.zeros(users, dtype=torch.float64).index_add_(0, user, torch.nn.functional.softplus(z) - y * z)
    value += 0.5 / K * ((1 / K) / w).log().sum(1)
    gap = (grad * w).sum(1) - grad.min(1).values
    bound = 1e-4 * value.clamp(min=1.0)
    assert bool((found.gap <= bound).all())
    assert bool((gap <= 1.2 * bound + 1e-4).all())  # of the weights as returned, in float32
    some = torch.arange(40)
    rows = user < 40
    alone = solve_weights(m[rows], y[rows], user[rows], 40, strength=0.5)
    torch.testing.assert_close(found.weights[some], alone.weights, rtol=0, atol=5e-3)


def test_the_concentration_is_that_of_a_dirichlet_distribution():
    alpha = np.array([2.0, 3.0, 5.0])
    draws = np.random.default_rng(0).dirichlet(alpha, size=200_000)
    found = concentration_of(torch.tensor(draws.mean(0))[None], torch.tensor(draws.var(0))[None])
    assert float(found[0]) == pytest.approx(10, rel=0.03)
    atoms = torch.tensor(draws[:5000], dtype=torch.float32)
    assert Population(atoms, torch.full((5000,), 1 / 5000)).concentration == pytest.approx(10, rel=0.1)
    assert Population.of(torch.tensor([0.5, 0.5])).concentration == float("inf")


def test_sums_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    n, users, questions = 200, 7, 11
    answers = Answers(
        torch.randint(users, (n,), generator=generator),
        torch.randint(questions, (n,), generator=generator),
        torch.rand(n, generator=generator),
    )
    features = torch.randn(questions, 4, generator=generator)
    wanted = torch.zeros(users, 4)
    for user, question, label in zip(answers.user, answers.question, answers.label, strict=True):
        wanted[user] += label * features[question]
    torch.testing.assert_close(answers.sums(answers.label, features, users), wanted)


def test_people_of_a_few_kinds_are_found_from_few_answers(monkeypatch):
    """Held to everybody's mean, 20 answers leave weights half way; held to what they are likely to be, they do not."""
    population = pal.simulation.population("a", n_users=150, n_prototypes=2, dim=8, per_user=25, kind="partition")
    parts = population.data.split(unseen_users=0.0, test=0.1, validation=0.1)
    config = pal.TrainConfig(n_prototypes=2, map="linear", latent_dim=8, max_steps=300)
    chosen = pal.fit(parts.train, parts.validation, config)
    monkeypatch.setattr(holding, "STRENGTHS", {"mean": holding.STRENGTHS["mean"]})
    mean = pal.fit(parts.train, parts.validation, config)
    assert chosen.metrics["held_to"] != "mean" == mean.metrics["held_to"]
    assert pal.evaluate(chosen.model, parts.test).log_loss < 0.9 * pal.evaluate(mean.model, parts.test).log_loss


def test_people_of_whom_nothing_is_known_have_the_mean_over_the_population(town):
    """Half prefer left strongly, half right: nobody knows, though the mean weights lean to one side."""
    model, parts = town
    unseen = parts.unseen
    _, probability = model.scores(unseen)
    questions, question = model.questions(unseen)
    each = torch.stack([model.probability(model.terms(questions).margins @ atom) for atom in model.prior.atoms], dim=1)
    torch.testing.assert_close(probability, (each @ model.prior.mass)[question])
    np.testing.assert_array_equal(pal.predict(model, unseen), probability.numpy())


def test_a_mean_of_probabilities_is_one():
    """Masses in float32 may sum to a little more than one."""
    data = pal.simulation.population("a", n_users=3, dim=4, per_user=5).data
    config = ModelConfig("a", n_prototypes=2, map="linear", response_dim=4, latent_dim=4, slope=1e4)
    prototypes = make_prototypes(config, torch.Generator().manual_seed(0))
    population = Population(torch.eye(2), torch.tensor([0.5, 0.5000001]))
    users = UserWeights.none(2, pl.Series("user_id", ["someone"]))
    assert float(RewardModel(config, prototypes, users, population).predict(data).max()) <= 1
