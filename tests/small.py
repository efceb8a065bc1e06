"""Settings of fits of a second, the parts of small data, and a model, that several tests share."""

import pal

QUICK = {"latent_dim": 5, "hidden_dim": 7, "batch_size": 64, "max_steps": 60}


def parts_of(data, **options):
    return data.split(**{"unseen_users": 0.2, "test": 0.2, "validation": 0.1, **options})


def three_groups(n_users):
    """A model of people of three kinds, and its data."""
    population = pal.simulation.population("a", n_users=n_users, n_prototypes=3, dim=8, per_user=60, kind="partition")
    parts = population.data.split(unseen_users=0.3, seed=0)
    config = pal.TrainConfig(n_prototypes=3, map="linear", latent_dim=8, max_steps=1500)
    return pal.fit(parts.train, parts.validation, config).model, parts
