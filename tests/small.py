"""Settings of fits of a second, the parts of small data, and a model, that several tests share."""

import numpy as np
import torch

import pal
from pal.testing import tiny

QUICK = {"latent_dim": 5, "hidden_dim": 7, "batch_size": 64, "max_steps": 60}


def parts_of(data, **options):
    return data.split(**{"unseen_users": 0.2, "test": 0.2, "validation": 0.1, **options})


def same(one, two):
    """Whether two models are the same to the bit."""
    a, b = one.state_dict(), two.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a) and torch.equal(one.users.weights, two.users.weights)


def judged(vectors, user, pairs, label, unseen_users=0.0):
    """A table of answers to pairs of items, split."""
    ids = [f"x{i}" for i in range(len(vectors))]
    sides = ([ids[i] for i in side] for side in pairs)
    columns = dict(zip(("left_id", "right_id"), sides, strict=True))
    table = pal.Comparisons.from_columns(user_id=[f"u{i}" for i in user], label=label.astype(float), **columns)
    return parts_of(pal.embed(table, embeddings=(ids, vectors.astype(np.float32))), unseen_users=unseen_users)


def with_checkpoint(folder):
    """A model whose training has a state on disk; it goes on from one that is there."""
    parts = tiny(600).split(unseen_users=0.2, test=0.2, validation=0.1)
    few = {"n_prototypes": 3, "batch_size": 16, "eval_every": 5, "max_steps": 150, "patience": 100, "latent_dim": 5}
    config = pal.TrainConfig(model="a", dropout=0.2, **few)
    return pal.fit(parts.train, parts.validation, config, checkpoint=folder).model


def three_groups(n_users):
    """A model of people of three kinds, and its data."""
    population = pal.simulation.population("a", n_users=n_users, n_prototypes=3, dim=8, per_user=60, kind="partition")
    parts = population.data.split(unseen_users=0.3, seed=0)
    config = pal.TrainConfig(n_prototypes=3, map="linear", latent_dim=8, max_steps=1500)
    return pal.fit(parts.train, parts.validation, config).model, parts


def votes(people, statements, each, effect, personal, seed=0):
    """Votes of people with three factors on statements that differ in how many agree: their vectors say nothing."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((statements + 2, 64)) / 8
    user = np.repeat(np.arange(people), each)
    asked = np.concatenate([random.permutation(statements)[:each] for _ in range(people)])
    person, statement = random.standard_normal((people, 3)), random.standard_normal((statements, 3))
    margin = effect * random.standard_normal(statements)[asked] + personal * (person[user] * statement[asked]).sum(1)
    ids = [*(f"s{i}" for i in range(statements)), "agree", "disagree"]
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        left_id=["agree"] * len(user),
        right_id=["disagree"] * len(user),
        prompt_id=[ids[i] for i in asked],
        label=(random.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float),
    )
    return pal.embed(table, embeddings=(ids, vectors))
