"""A normal density of people's weights, for people who are a continuum."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal._adaptation.fitting import fit_weights
from pal._adaptation.normal import learn_precision
from pal._adaptation.prior import BARRIER, Prior
from pal._training import holding
from pal._training.alone import Alone
from pal._training.holding import FEW_STRENGTHS
from pal._training.sample import Sample
from pal.adaptation import Person
from pal.comparisons import split_rows
from pal.losses import LOSSES
from pal.model import ModelConfig, RewardModel, make_prototypes
from pal.prototypes import Terms
from pal.questions import Answers
from pal.users import Population, UserWeights
from small import three_groups

K = 4
SPREAD = torch.tensor([[0.11, 0.09, -0.1, -0.1], [0.05, -0.05, 0.02, -0.02]], dtype=torch.float64)  # of people


def a_model(mean, loss="logistic"):
    config = ModelConfig("a", n_prototypes=len(mean), map="linear", response_dim=3, latent_dim=3, loss=loss)
    prototypes = make_prototypes(config, torch.Generator().manual_seed(0))
    return RewardModel(config, prototypes, UserWeights.none(len(mean)), mean)


def people(n=800, answers=25, seed=0):
    """True weights (n, K), normal around even ones, and answers to questions of their own."""
    generator = torch.Generator().manual_seed(seed)
    true = 0.25 + torch.randn(n, 2, generator=generator).double() @ SPREAD
    true = true.clamp(min=1e-3) / true.clamp(min=1e-3).sum(1, keepdim=True)
    user = torch.arange(n).repeat_interleave(answers)
    margins = 4 * torch.randn(len(user), K, generator=generator)
    p = torch.sigmoid((margins * true[user]).sum(1))
    label = (torch.rand(len(user), generator=generator) < p).float()
    return true, Terms(margins=margins), Answers(user, torch.arange(len(user)), label)


def shrunk(model, terms, answers, n):
    return fit_weights(model, terms, answers, n, Prior.at(model.population, n, 7.0)).weights


def test_the_covariance_is_that_of_people_not_of_their_shrunk_weights():
    true, terms, answers = people()
    model, n = a_model(torch.full((K,), 0.25)), len(true)
    weights = shrunk(model, terms, answers, n)
    precision = learn_precision(model, terms, answers, weights, torch.ones(n))
    found, wanted, naive = torch.inverse(precision), torch.cov(true.T), torch.cov(weights.double().T)
    _, ways = torch.linalg.eigh(wanted)
    strong, weak, none = ways[:, -1], ways[:, -2], ways[:, -3]

    def along(covariance, way):
        return float(way @ covariance @ way)

    assert along(naive, strong) < 0.5 * along(wanted, strong) < 0.7 * along(found, strong)
    for way in (strong, weak, none):
        assert abs(along(found, way) - along(wanted, way)) < 0.8 * abs(along(naive, way) - along(wanted, way))


def test_people_held_to_their_density_are_known_better_than_by_a_divergence():
    true, terms, answers = people()
    model, n = a_model(torch.full((K,), 0.25)), len(true)
    precision = learn_precision(model, terms, answers, shrunk(model, terms, answers, n), torch.ones(n))
    fresh, terms, answers = people(n=300, answers=10, seed=1)

    def error(prior):
        return float((fit_weights(model, terms, answers, len(fresh), prior).weights - fresh).square().sum(1).mean())

    mean = model.population
    others = min(error(Prior.at(mean, len(fresh), strength)) for strength in (1.0, 3.0, 10.0, 30.0, 100.0))
    assert error(Prior.at(mean, len(fresh), BARRIER, precision)) < 0.9 * others


def test_two_processes_find_what_one_finds():
    """The users of each are half of them: the sums it asks for are answered with those of both."""
    _, terms, answers = people(n=60)
    model = a_model(torch.full((K,), 0.25))
    weights = shrunk(model, terms, answers, 60)
    asked = []
    one = learn_precision(model, terms, answers, weights, torch.ones(60), lambda x: asked.append(x) or x)
    halves = []
    for half in (0, 1):
        rows = answers.user // 30 == half
        part = answers.take(rows.nonzero().squeeze(1))
        part = replace(part, user=part.user - 30 * half)
        told, said = iter(asked), []

        def total(x, told=told, said=said):
            said.append(x)
            return next(told)

        two = learn_precision(model, terms, part, weights[30 * half : 30 * half + 30], torch.ones(30), total)
        torch.testing.assert_close(two, one)
        halves.append(said)
    for first, second, whole in zip(*halves, asked, strict=True):
        torch.testing.assert_close(first + second, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_nobody_plays_in_a_population_that_is_their_own(n):
    sample = Sample(torch.arange(20) < n, torch.arange(n), 20)
    folds = list(sample.folds(5, Alone()))
    assert bool((torch.stack([mine for mine, _ in folds]).sum(0) == 1).all())  # everybody plays once
    for mine, others in folds:
        assert others.tolist() == (~mine).nonzero().squeeze(1).tolist() or n == 1
        assert len(others)


def test_players_are_not_in_the_population_that_they_play_in(monkeypatch):
    sizes = []
    taken = holding.population_of
    monkeypatch.setattr(holding, "population_of", lambda w, *a, **k: sizes.append(len(w)) or taken(w, *a, **k))
    data = pal.simulation.population("a", n_users=30, n_prototypes=2, dim=4, per_user=30, seed=0).data
    pal.fit(data, None, pal.TrainConfig(n_prototypes=2, map="linear", latent_dim=4, max_steps=20, refit=False))
    assert sizes[:7] == [30, 30, *[24] * 5]  # to hold seen people to, new ones, and those who play them


def test_folds_do_not_follow_the_order_of_people():
    """Where every fifth person is of one kind, no fold is that kind."""
    sample = Sample(torch.ones(200, dtype=torch.bool), torch.arange(200), 200)
    kind = torch.arange(200) % 5
    for mine, _ in sample.folds(5, Alone()):
        assert int(kind[mine].bincount(minlength=5).max()) < 0.6 * int(mine.sum())


def test_reliability_multiplies_the_margins_that_tell_of_the_density():
    weights, terms, answers = people(n=60)
    model = a_model(torch.full((K,), 0.25))
    sure = learn_precision(model, terms, answers, weights, torch.full((60,), 2.0))
    doubled = learn_precision(model, terms.times(2.0), answers, weights, torch.ones(60))
    torch.testing.assert_close(sure, doubled, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_people_all_alike_have_a_density_with_no_room(loss):
    _, terms, answers = people(n=50, answers=3)
    mean = torch.full((K,), 0.25)
    model = a_model(mean, loss)
    found = learn_precision(model, terms, answers, mean.expand(50, -1), torch.ones(50))
    assert bool(found.isfinite().all())
    assert float(torch.linalg.eigvalsh(found).min()) > 0


@pytest.fixture(scope="module")
def continuum():
    """People whose linear tastes are normal, in six directions: stronger in some than in others."""
    random = np.random.default_rng(0)
    items = random.standard_normal((300, 6)).astype(np.float32)
    taste = random.standard_normal((260, 6)) * np.array([1.5, 1, 1, 0.5, 0.5, 0.5]) + np.array([0, 0, 0, 1, 0, 0])
    user = np.repeat(np.arange(260), 45)
    left = random.integers(300, size=len(user))
    right = (left + random.integers(1, 300, size=len(user))) % 300
    margin = ((items[left] - items[right]) * taste[user]).sum(1)
    label = (random.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float)
    names = [f"x{i}" for i in range(300)]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        left_id=[names[i] for i in left],
        right_id=[names[i] for i in right],
        label=label,
    )
    data = pal.embed(table, embeddings=(names, items))
    parts = data.split(unseen_users=0.3, seed=0)
    config = pal.TrainConfig(n_prototypes=8, map="linear", latent_dim=6, max_steps=1000)
    return pal.fit(parts.train, parts.validation, config), parts, data


@pytest.fixture(scope="module")
def town():
    return three_groups(n_users=200)


def with_population(model, precision, strength):
    prior = Population(model.atoms, model.mass, precision)
    return RewardModel(replace(model.config, strength=strength), model.prototypes, model.users, prior)


def test_new_people_of_a_continuum_are_held_to_its_density(continuum):
    result, parts, _ = continuum
    model = result.model
    assert result.metrics["few_shot_held_to"] == "normal"
    assert model.precision is not None
    assert model.config.strength in FEW_STRENGTHS["posterior"]  # of the divergence, for who asks for it

    def loss(model):
        curve = pal.shot_curve(model, parts.unseen, shots=[5, 20], reserve=25)
        return curve["log_loss"].mean()

    atoms = min(loss(with_population(model, None, strength)) for strength in (10.0, 30.0, 100.0, 300.0, 1000.0))
    assert loss(model) < atoms - 0.003


def test_seen_people_who_are_held_to_the_density_are_so_as_new_ones_are(continuum, monkeypatch):
    """Around nearly the same mean, and as strongly as validation chose for them."""
    _, parts, data = continuum
    monkeypatch.setattr(holding, "STRENGTHS", {"normal": FEW_STRENGTHS["normal"]})
    config = pal.TrainConfig(n_prototypes=8, map="linear", latent_dim=6, max_steps=1000)
    result = pal.fit(parts.train, parts.validation, config)
    model, chosen = result.model, result.metrics
    assert (chosen["held_to"], chosen["few_shot_held_to"]) == ("normal", "normal")
    times = chosen["strength"] / chosen["few_shot_strength"]
    rows = split_rows(data.comparisons, 0.3, 0.1, 0.1, "comparison", 0)
    again = pal.adapt(
        with_population(model, times * model.precision, model.config.strength),
        data.take(np.concatenate([rows["train"], rows["validation"]])),
    )
    known = torch.from_numpy(model.users.rows(again.ids).copy())
    difference = (again.weights - model.users.weights[known]).abs()
    assert float(difference.median()) < 2e-3  # of weights of an eighth on average
    assert float(difference.max()) < 1e-2


def test_groups_of_people_are_not(town):
    model, _ = town
    assert model.precision is None


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_person_answer_by_answer_is_the_person_all_at_once(continuum, loss):
    result, parts, _ = continuum
    model, table = result.model._with(loss=loss), parts.unseen.comparisons
    few = parts.unseen.take(np.flatnonzero(table.user == table.user[0])[:12])
    person = Person(model)
    for row in range(12):
        person.answer(few.take(np.array([row])))
        once = pal.adapt(model, few.take(np.arange(row + 1)))
        torch.testing.assert_close(person.weights, once.weights[0], rtol=0, atol=3e-3)
    assert float(once.gap[0]) < 1e-2


def test_a_prior_or_a_strength_that_is_given_takes_the_density_place(continuum):
    result, parts, _ = continuum
    model, few = result.model, parts.unseen
    atoms = with_population(model, None, model.config.strength)
    prior = torch.tensor([0.3] + [0.1] * 7)
    for options in ({"prior": prior}, {"strength": 3.0}, {"prior": prior, "strength": 3.0}):
        assert torch.equal(pal.adapt(model, few, **options).weights, pal.adapt(atoms, few, **options).weights)
    assert not torch.allclose(pal.adapt(model, few).weights, pal.adapt(atoms, few).weights, atol=0.01)


def test_the_density_is_saved_and_models_from_before_it_are_read(continuum, town, tmp_path):
    for name, model in (("normal", continuum[0].model), ("atoms", town[0])):
        model.save_pretrained(tmp_path / name)
        again = pal.RewardModel.from_pretrained(tmp_path / name)
        assert ("precision" in model.state_dict()) == (name == "normal") == (again.precision is not None)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[key])
