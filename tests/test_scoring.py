"""Every user's rewards of many responses, from cached prototype rewards."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import pal
from pal import scoring


@pytest.fixture(scope="module")
def model():
    population = pal.simulation.population("a", n_users=30, n_prototypes=2, dim=8, per_user=20)
    fitted = pal.fit(population.data, None, pal.TrainConfig(n_prototypes=2, map="linear", latent_dim=4, max_steps=50))
    return fitted.model


@pytest.fixture(scope="module")
def catalogue(model):
    vectors = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    return vectors, model.prototype_rewards(None, vectors)


def test_rows_are_rewards(model, catalogue):
    vectors, cached = catalogue
    rewards = scoring.rewards_of_users(model, cached)
    for row, user in enumerate(model.user_ids):
        np.testing.assert_allclose(rewards[row], model.reward(user, responses=vectors.numpy()), rtol=1e-4, atol=1e-4)


def test_reliability_scales_a_row(model, catalogue):
    _, cached = catalogue
    doubled = model.with_users(replace(model.users, reliability=torch.full((30,), 2.0)))
    torch.testing.assert_close(scoring.rewards_of_users(doubled, cached), 2 * scoring.rewards_of_users(model, cached))


def test_a_buffer_is_reused(model, catalogue):
    _, cached = catalogue
    buffer = torch.full((30, 7), torch.nan)
    assert scoring.rewards_of_users(model, cached, out=buffer) is buffer
    assert bool(torch.isfinite(buffer).all())


def test_parts_hold_every_user_once(model, catalogue, tmp_path, monkeypatch):
    _, cached = catalogue
    monkeypatch.setattr(scoring, "PART", 8)
    ids = pl.Series([f"item {i}" for i in range(7)])
    parts = scoring.write_rewards(model, cached, tmp_path / "out", ids)
    assert [part.name for part in parts] == [f"part-0000{i}.parquet" for i in range(4)]
    frame = pl.concat([pl.read_parquet(part) for part in parts])
    assert frame["user_id"].to_list() == model.user_ids.to_list()
    np.testing.assert_allclose(frame["rewards"].to_numpy(), scoring.rewards_of_users(model, cached))
    assert pl.read_parquet(tmp_path / "out" / "responses.parquet")["response_id"].to_list() == ids.to_list()
    with pytest.raises(pal.InputError, match="choose another folder"):
        scoring.write_rewards(model, cached, tmp_path / "out", ids)


def test_refuses(model, catalogue, tmp_path):
    _, cached = catalogue
    with pytest.raises(pal.InputError, match=r"must be \(R, 2\), found \(7, 1\)"):
        scoring.rewards_of_users(model, cached[:, :1])
    for given, out, says in (("x", None, r"\(R, 2\), found 'x'"), (cached, "x", "out must be a torch.float32 tensor")):
        with pytest.raises(pal.InputError, match=says):
            scoring.rewards_of_users(model, given, out)
    (tmp_path / "a-file").write_text("x")
    for rewards, folder, ids, says in (
        (cached, "a-file", None, "is a file: choose a folder"),
        (cached, "new", list("abcdefa"), "response id 'a' is given twice"),
        (cached * torch.nan, "new", None, "must be finite"),
        (cached, "new", 5, "response_ids must be a list of 7 ids, found 5"),
        (cached, "new", [*"abcdef", None], "one of response_ids is null"),
        (cached, 5, None, "folder must be a path, found 5"),
    ):
        with pytest.raises(pal.InputError, match=says):
            scoring.write_rewards(model, rewards, tmp_path / folder if isinstance(folder, str) else folder, ids)
    with pytest.raises(pal.InputError, match=r"model must be a pal\.RewardModel"):
        scoring.rewards_of_users(3, cached)
    with pytest.raises(pal.InputError, match="7 responses have 2 ids"):
        scoring.write_rewards(model, cached, tmp_path / "out", pl.Series(["a", "b"]))
    curved = pal.RewardModel(
        replace(model.config, ideal_point="map_of_mixture", map="mlp"),
        pal.prototypes.FixedPrototypes(
            pal.maps.MLPMap(8, 4, hidden_dim=4, generator=torch.Generator()),
            2,
            "map_of_mixture",
            generator=torch.Generator(),
        ),
        model.users,
        model.prior,
    )
    with pytest.raises(pal.InputError, match="not linear"):
        scoring.rewards_of_users(curved, cached)
