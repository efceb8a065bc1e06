"""Settings of fits of a second, and the parts of small data, that several tests share."""

QUICK = {"latent_dim": 5, "hidden_dim": 7, "batch_size": 64, "max_steps": 60}


def parts_of(data, **options):
    return data.split(**{"unseen_users": 0.2, "test": 0.2, "validation": 0.1, **options})
