"""Where training starts: where a map's inputs lie, and the best linear reward."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import pal
from pal import TrainConfig
from pal._training.start import frame
from pal.testing import tiny
from small import QUICK, judged, parts_of, votes


def test_the_scale_of_embeddings_does_not_matter():
    data = tiny(300)
    config = TrainConfig(model="b", n_prototypes=2, **QUICK)
    big = replace(data, responses=data.responses * 128, prompts=data.prompts * 128)  # a power of two: the same digits
    one, two = (pal.predict(pal.fit(d, config=config).model, d) for d in (data, big))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"model": "b"}, {"model": "a"}, {"model": "a", "ideal_point": "mixture_of_maps"}])
def test_vectors_that_are_nearly_one_are_told_apart(settings):
    """As hidden states of language models are: what they share is twenty times as long as what they do not."""
    asked = settings["model"] == "b"
    if asked:
        data, k = votes(people=80, statements=40, each=30, effect=1.5, personal=1.0), 1
    else:
        data, k = pal.simulation.population("a", n_users=30, n_prototypes=2, dim=8, per_user=60, seed=1).data, 2
    vectors = data.prompts if asked else data.responses
    shared = np.random.default_rng(1).standard_normal((1, vectors.shape[1])).astype(np.float32)
    shared *= 20 * np.sqrt(np.square(vectors).sum(1).mean()) / np.linalg.norm(shared)
    config = TrainConfig(n_prototypes=k, map="linear", max_steps=300, **settings)

    def loss(add):
        changed = replace(data, **{"prompts" if asked else "responses": vectors + add})
        parts = parts_of(changed, unseen_users=0.0)
        return pal.evaluate(pal.fit(parts.train, parts.validation, config).model, parts.test, bootstrap=0).log_loss

    assert loss(shared) < loss(0.0) + 0.02


@pytest.mark.parametrize(("times", "most"), [(0.0, 1.0), (0.9, 1.0), (2.9, 3.0), (20.0, 1.0), (20.0, 3.0)])
def test_of_what_vectors_share_no_more_stays_than_so_much(times, most):
    random = np.random.default_rng(0)
    apart = random.standard_normal((50, 6))
    apart -= apart.mean(0)
    apart /= np.sqrt(np.square(apart).sum(1).mean())
    direction = np.ones(6) / 6**0.5
    x = torch.from_numpy(apart + times * direction).float()
    taken, length = frame(x, lambda values: values.mean(0), most)
    left = min(times, most)
    torch.testing.assert_close((x - taken).mean(0), torch.from_numpy(left * direction).float(), rtol=1e-4, atol=1e-4)
    assert length == pytest.approx(math.hypot(1.0, left), rel=1e-4)
    assert taken.any() == (times > most), "vectors that are not nearly one stay as they are"


@pytest.mark.parametrize("x", [torch.full((1, 4), 3.0), torch.full((300, 4), 0.1), torch.zeros(3, 4)])
def test_one_vector_stays(x):
    taken, length = frame(x, lambda values: values.mean(0), 1.0)
    assert not taken.any()
    assert length == pytest.approx(float(x[0].norm()), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_ideal_points_far_away_are_found(kind, seed):
    """Rewards that do not bend at all, 2,400 answers: nearly as good as a logistic regression, which cannot bend."""
    random = np.random.default_rng(seed)
    items, taste = random.standard_normal((400, 16)), random.standard_normal(16) / 2
    left = random.integers(0, 400, 3000)
    right = (left + random.integers(1, 400, 3000)) % 400
    label = random.random(3000) < 1 / (1 + np.exp(-(items[left] - items[right]) @ taste))
    ids = np.array([f"x{i}" for i in range(400)])
    columns = {"left_id": ids[left], "right_id": ids[right], "label": label.astype(float)}
    table = pal.Comparisons.from_columns(user_id=[f"u{i % 60}" for i in range(3000)], **columns)
    parts = pal.embed(table, embeddings=(list(ids), items.astype(np.float32))).split(validation=0.1, test=0.0, seed=0)
    config = TrainConfig(model="a", map=kind, n_prototypes=1)
    fresh = random.standard_normal((2000, 16)).astype(np.float32)
    rewards = []
    for change in ({}, {"init": "random"}, {"init": "random", "curvature": False}):
        model = pal.fit(parts.train, parts.validation, replace(config, **change)).model
        rewards.append(model.prototype_rewards(None, torch.from_numpy(fresh))[:, 0].numpy())
    answered = parts.train.comparisons
    difference = parts.train.responses[answered.left] - parts.train.responses[answered.right]
    oracle = LogisticRegression(fit_intercept=False).fit(difference, answered.label).coef_[0]
    straight, learned, fixed, best = (np.corrcoef(r, fresh @ taste)[0, 1] for r in (*rewards, fresh @ oracle))
    assert straight > best - 0.005, (straight, best)
    assert learned > best - 0.015 > fixed, (learned, fixed, best)


def test_what_turns_on_directions_in_which_vectors_hardly_vary_is_learned():
    """Of 48 directions the last vary a fiftieth as much as the first; all count alike, for three groups in two ways."""
    random = np.random.default_rng(0)
    plain, user = random.standard_normal((500, 48)), np.repeat(np.arange(90), 60)
    turned = np.linalg.qr(random.standard_normal((48, 48)))[0]
    tastes = random.standard_normal(48) + random.standard_normal((3, 48))[np.arange(90) % 3]
    left = random.integers(0, 500, len(user))
    right = (left + random.integers(1, 500, len(user))) % 500
    margin = ((plain[left] - plain[right]) * tastes[user]).sum(1)
    answers = random.random(len(user)) < 1 / (1 + np.exp(-2 * margin / margin.std()))
    parts = judged(plain * np.arange(1, 49) ** -1.0 @ turned, user, (left, right), answers)
    result = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=3))
    linear = pal.baselines.fit("btl-linear", parts.train, parts.validation)
    ours, pooled, peer = (pal.evaluate(m, parts.test, bootstrap=0) for m in (result.model, result.pooled, linear))
    assert pooled.log_loss < peer.log_loss + 0.005
    assert ours.log_loss < pooled.log_loss - 0.02
