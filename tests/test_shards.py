"""Several processes that train in step, without Ray, are as one."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist

import pal
from pal._distributed.handing import hand_over, numbered
from pal._distributed.people import placement
from pal._distributed.training import _prompts, fit_shard, read_result, write_result
from pal.testing import tiny
from pal.training import Prompts, continued
from pal.users import rows_of
from small import votes


def same_users(one, two, tolerance):
    rows = rows_of(one.user_ids, two.user_ids).copy()
    assert sorted(rows) == list(range(len(one.user_ids)))
    assert np.abs(one.users.weights.numpy() - two.users.weights.numpy()[rows]).max() < tolerance
    assert one.users.n_comparisons.tolist() == two.users.n_comparisons[rows].tolist()


@pytest.fixture(scope="module")
def partner():
    """A second process, which has imported torch for all tests that need one."""
    script = Path(__file__).with_name("shard_process.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


def in_processes(given, folder, partner=None):
    """The fit of two processes, without Ray, of which this one is the first; of this one alone without a partner."""
    if partner is not None:
        (folder / "given.pkl").write_bytes(pickle.dumps(given))
        partner.stdin.write(f"{folder}\n")
        partner.stdin.flush()
    size = 1 if partner is None else 2
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=120)}
    dist.init_process_group("gloo", rank=0, world_size=size, **meeting)
    try:
        write_result(fit_shard(given, 0, size), folder)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    if partner is not None:
        said = partner.stdout.readline()
        while said and not said.endswith(f" {folder}\n"):  # of a fit that failed here before
            said = partner.stdout.readline()
        assert said == f"done {folder}\n"


def check_same(one, two):
    assert one.history["n_prototypes"].to_list() == two.history["n_prototypes"].to_list()
    for column in ("step", "train_loss", "validation_log_loss", "lr"):
        assert np.allclose(one.history[column], two.history[column], rtol=2e-3, atol=2e-4), column
    first = one.history["n_prototypes"] == 1
    assert np.allclose(one.history["train_loss"].filter(first), two.history["train_loss"].filter(first), atol=1e-6)
    for name in ("held_to", "strength", "few_shot_held_to", "few_shot_strength", "n_prototypes", "steps"):
        assert one.metrics[name] == two.metrics[name], name
    assert one.p_value == pytest.approx(two.p_value, abs=1e-3, nan_ok=True)
    same_users(one.model, two.model, 1e-2)
    assert (one.model.precision is None) == (two.model.precision is None)
    for k, model in one.models.items():
        assert np.allclose(model.population, two.models[k].population, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        pytest.param({"map": "mlp", "max_steps": 60}, 0, id="plain", marks=pytest.mark.slow),
        pytest.param({"balance_users": True, "side_bias": True}, 1, id="balanced"),
    ],
)
def test_several_processes_give_the_loss_curve_and_the_model_of_one(partner, tmp_path, options, shared):
    data = pal.embed(pal.simulation.demo(n_users=30), "hashing")
    data = replace(data, prompts=data.prompts + shared).split(unseen_users=0.0)
    config = pal.TrainConfig(**{"n_prototypes": 2, "map": "linear", "max_steps": 24, **options})
    in_processes(hand_over(data.train, data.validation, config, tmp_path / "data"), tmp_path, partner)
    one, two = pal.fit(data.train, data.validation, config), read_result(tmp_path, data.train.comparisons.user_ids)
    check_same(one, two)
    shift, same = (result.model.prototypes.g.input_shift for result in (one, two))
    assert shift.any() == bool(shared), "taken away where prompts are nearly one vector"
    torch.testing.assert_close(shift, same)


def test_new_questions_of_several_processes_are_counted_once(partner, tmp_path):
    """Answers to one of them are in both, which alone say more of the slope than together."""
    data = votes(40, 20, 15, 2.0, 0.5).split(unseen_users=0.0, test=0.0, validation=0.4, by="prompt")
    config = pal.TrainConfig(model="b", n_prototypes=(1, 2), map="linear", max_steps=30)
    in_processes(hand_over(data.train, data.validation, config, tmp_path / "data"), tmp_path, partner)
    two = read_result(tmp_path, data.train.comparisons.user_ids)
    one = pal.fit(data.train, data.validation, config)
    assert two.models[1].config.slope == pytest.approx(one.models[1].config.slope, rel=1e-5)
    assert two.p_value == pytest.approx(one.p_value, abs=0.01)
    assert two.table["gain_se"].to_list() == pytest.approx(one.table["gain_se"].to_list(), rel=0.05)


@pytest.mark.parametrize("own", ["one prompt each", "one has one", "all their own"])
def test_whether_prompts_vary_is_asked_of_all_processes(partner, tmp_path, own):
    """A worker whose people were all asked about one prompt trains the model that all of them mean."""
    alone = own == "all their own"
    data = tiny(n=240, users=4, prompts=240, responses=600) if alone else tiny(n=240, users=4, prompts=2)
    table = data.comparisons
    worker = placement(pl.Series(table.user.astype(np.int64)), 2)
    assert set(worker) == {0, 1}
    prompt = np.where(worker == 0, 0, 1 if own == "one prompt each" else np.arange(len(table)) % 2)
    prompt = (np.arange(len(table)) if alone else prompt).astype(np.int32)
    data = replace(data, comparisons=replace(table, prompt=prompt)).split(unseen_users=0.0, test=0.0, validation=0.15)
    config = pal.TrainConfig(n_prototypes=1, map="linear", latent_dim=5, max_steps=30, last_passes=1)
    in_processes(hand_over(data.train, data.validation, config, tmp_path / "data"), tmp_path, partner)
    two = read_result(tmp_path, data.train.comparisons.user_ids)
    one = pal.fit(data.train, data.validation, config)
    assert two.model.config.model == one.model.config.model == ("a" if alone else "b")
    assert two.metrics["validation_log_loss"] == pytest.approx(one.metrics["validation_log_loss"], abs=1e-4)


def test_prompts_and_responses_are_counted_as_one_process_counts_them(monkeypatch):
    """Both workers have most of them."""
    data = tiny(n=300, users=6, prompts=20, responses=30)
    told = []

    def gather(everywhere, mine):
        told.append(mine)
        everywhere[:] = told[-2:] if len(told) > 1 else [mine, mine]

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    halves = [data.take(np.flatnonzero(data.comparisons.user % 2 == worker)) for worker in (0, 1)]
    found = [_prompts(half) for half in halves][1]
    assert found == Prompts.of(data)
    assert (found.prompts, found.people, found.responses) == (20, 6, 30)


@pytest.fixture(scope="module")
def known():
    """A model to go on from, its settings, and answers of its people that it has not seen."""
    data = pal.embed(pal.simulation.demo(n_users=30), "hashing").split(unseen_users=0.0)
    config = pal.TrainConfig(model="b", n_prototypes=2, map="linear", max_steps=40)
    return pal.fit(data.train, data.validation, config).model, config, data.test


@pytest.mark.parametrize("n", [2, 20])
def test_going_on_in_several_processes_is_going_on_in_one(known, partner, tmp_path, n):
    """Of people whom the start knows but who say nothing now, several processes know as much."""
    start, config, new = known
    people = np.unique(new.comparisons.user)[:n]
    rows = np.flatnonzero(np.isin(new.comparisons.user, people))
    few = new.take(rows).split(unseen_users=0.0, test=0.0, validation=0.2)
    one = pal.fit(few.train, few.validation, config, start=start)
    given = hand_over(few.train, few.validation, continued(config, start), tmp_path / "data")
    numbered(start, few.train.comparisons.user_ids).save_pretrained(tmp_path / "start")
    in_processes(replace(given, start=str(tmp_path / "start")), tmp_path, partner)
    two = read_result(tmp_path, few.train.comparisons.user_ids)
    assert set(two.model.user_ids) == set(start.user_ids)
    check_same(one, two)
