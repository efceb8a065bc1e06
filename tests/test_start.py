"""Where a map's inputs lie."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal import TrainConfig
from pal._training.start import frame
from pal.testing import tiny
from small import QUICK, parts_of, votes


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
