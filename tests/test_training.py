import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal import TrainConfig
from pal._training import run as run_module
from pal._training.run import Run
from pal._training.tables import Tables
from pal.losses import LOSSES
from pal.testing import tiny
from pal.training import model_config, train

QUICK = {"latent_dim": 5, "hidden_dim": 7, "batch_size": 64, "max_steps": 60}


def parts_of(data, **options):
    return data.split(**{"unseen_users": 0.2, "test": 0.2, "validation": 0.1, **options})


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a) and torch.equal(one.users.weights, two.users.weights)


def test_the_same_seed_gives_the_same_numbers():
    parts = parts_of(tiny())
    config = TrainConfig(n_prototypes=3, dropout=0.3, **QUICK)
    one, two, other = (pal.fit(parts.train, parts.validation, replace(config, seed=s)).model for s in (0, 0, 1))
    assert same(one, two)
    assert not same(one, other)


def test_recovers_a_simulated_partition():
    data = pal.simulation.population("a", n_users=60, n_prototypes=3, dim=8, per_user=120, seed=1)
    parts = parts_of(data, unseen_users=0.2)
    result = pal.fit(parts.train, parts.validation, TrainConfig(model="a", map="linear", n_prototypes=3))
    assert pal.evaluate(result.model, parts.test, bootstrap=0).accuracy > 0.93
    assert pal.evaluate(result.pooled, parts.test, bootstrap=0).accuracy < 0.85
    curve = pal.shot_curve(result.model, parts.unseen, shots=[0, 20], seeds=1)
    assert curve["accuracy"][1] > curve["accuracy"][0] + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_no_seed_stays_on_the_plateau(seed):
    """Persona-like votes: random starts stay at the majority's answer; growth from the pooled model leaves it."""
    data = pal.simulation.population(
        "b", n_users=60, n_prototypes=4, dim=16, per_user=100, seed=seed, n_prompts=150, n_items=2
    )
    parts = parts_of(data, unseen_users=0.0)
    config = TrainConfig(model="b", n_prototypes=4, seed=seed, max_steps=800)
    result = pal.fit(parts.train, parts.validation, config)
    accuracy, pooled = (pal.evaluate(m, parts.test, bootstrap=0).accuracy for m in (result.model, result.pooled))
    assert accuracy > pooled + 0.1


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("lr", [1e-3, 10.0])
def test_every_loss_trains_without_nan(loss, lr):
    parts = parts_of(tiny())
    config = TrainConfig(n_prototypes=3, loss=loss, lr=lr, prototype_lr=lr, **QUICK)
    try:
        model = pal.fit(parts.train, parts.validation, config).model
    except pal.InputError as error:
        assert "use smaller learning rates" in str(error)  # noqa: PT017 - either outcome is right
        return
    p = pal.predict(model, parts.test)
    assert np.isfinite(p).all()
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_partition_gives_each_person_one_prototype():
    parts = parts_of(tiny())
    model = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=3, partition=True, **QUICK)).model
    assert set(np.unique(model.users.weights.numpy())) <= {0.0, 1.0}
    assert set(np.unique(pal.adapt(model, parts.unseen).weights.numpy())) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "option", [{"side_bias": True}, {"reliability": True}, {"balance_users": True}, {"precision": "bfloat16"}]
)
def test_options_train_and_predict(option):
    parts = parts_of(tiny(400))
    model = pal.fit(parts.train, parts.validation, TrainConfig(n_prototypes=2, **option, **QUICK)).model
    assert np.isfinite(pal.predict(model, parts.test)).all()


def test_a_left_bias_is_learned():
    data = tiny(4000, users=20, prompts=0, ties=0.0)
    rng = np.random.default_rng(0)
    label = np.where(rng.random(4000) < 0.4, 1.0, data.comparisons.label).astype(np.float32)
    biased = replace(data, comparisons=replace(data.comparisons, label=label))
    parts = parts_of(biased)
    config = TrainConfig(n_prototypes=1, **{**QUICK, "max_steps": 400})
    with_bias = pal.fit(parts.train, parts.validation, replace(config, side_bias=True)).model
    without = pal.fit(parts.train, parts.validation, config).model
    assert with_bias.config.side_bias > 0.3
    assert pal.evaluate(with_bias, parts.test).log_loss < pal.evaluate(without, parts.test).log_loss - 0.02


def test_a_step_touches_only_its_users():
    parts = parts_of(tiny(), unseen_users=0.0)
    config = TrainConfig(model="b", **QUICK)
    shape = model_config(parts.train, config, 3)
    run = Run(Tables.of(parts.train, parts.validation, shape, config), shape, config, None)
    before = run.table.clone()
    rows = (run.tables.answers.user == 2).nonzero().squeeze(1)
    run._step(rows)
    changed = (run.table != before).any(1).nonzero().squeeze(1).tolist()
    assert changed == [2]


def test_soft_labels_and_weights_count():
    data = tiny(400, ties=0.0)
    weight = np.where(data.comparisons.label == 1, 1.0, 1e-3).astype(np.float32)
    leaning = replace(data, comparisons=replace(data.comparisons, weight=weight))
    parts = parts_of(leaning)
    config = TrainConfig(n_prototypes=1, side_bias=True, **{**QUICK, "max_steps": 300})
    assert pal.predict(pal.fit(parts.train, parts.validation, config).model, parts.test).mean() > 0.6
    soft = replace(data, comparisons=replace(data.comparisons, label=np.full(400, 0.8, np.float32)))
    parts = parts_of(soft)
    p = pal.predict(pal.fit(parts.train, parts.validation, config).model, parts.test)
    assert abs(p.mean() - 0.8) < 0.08


def test_a_warm_start_keeps_users_and_learns_from_new_comparisons():
    data = tiny(600, users=12)
    old, new = data.take(data.comparisons.user < 8), data.take(data.comparisons.user >= 4)
    config = TrainConfig(n_prototypes=2, **QUICK)
    first = pal.fit(old, config=config).model
    second = pal.fit(new, config=config, start=first).model
    assert set(second.user_ids) == {f"u{i}" for i in range(12)}
    assert pal.evaluate(second, new, bootstrap=0).log_loss < pal.evaluate(first, new, bootstrap=0).log_loss


def test_without_validation_a_tenth_is_held_out():
    result = pal.fit(tiny(400), config=TrainConfig(n_prototypes=2, **QUICK))
    assert result.metrics["validation_log_loss"] > 0


SCRIPT = """
import sys
import pal
from pal._training import run
from pal.testing import tiny
run.SAVE_EVERY = 0.0
parts = tiny(600).split(unseen_users=0.2, test=0.2, validation=0.1)
config = pal.TrainConfig(
    n_prototypes=3, dropout=0.2, batch_size=16, eval_every=5, max_steps=400, patience=100, latent_dim=5
)
result = pal.fit(parts.train, parts.validation, config, checkpoint=sys.argv[1])
result.model.save_pretrained(sys.argv[2])
"""


def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def command(name):
        return [sys.executable, str(script), str(tmp_path / f"{name}-checkpoint"), str(tmp_path / name)]

    subprocess.run(command("whole"), check=True)
    kills = 0
    for wait in (0.05, 0.2):
        process = subprocess.Popen(command("killed"))
        file = tmp_path / "killed-checkpoint" / "prototypes-3.safetensors"
        while not file.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    subprocess.run(command("killed"), check=True)
    one, two = (pal.RewardModel.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    assert same(one, two)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    parts = parts_of(tiny())
    config = TrainConfig(n_prototypes=2, **QUICK)
    pal.fit(parts.train, parts.validation, config, checkpoint=tmp_path)
    with pytest.raises(pal.InputError, match="a checkpoint of other data or settings: delete it"):
        pal.fit(parts.train, parts.validation, replace(config, lr=1e-2), checkpoint=tmp_path)
    (tmp_path / "prototypes-1.safetensors").write_bytes(b"nonsense")
    with pytest.raises(pal.SavedModelError, match="delete it to start anew"):
        pal.fit(parts.train, parts.validation, config, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": -1}, "lr must be positive"),
        ({"n_prototypes": 0}, "whole numbers of at least 1"),
        ({"n_prototypes": "many"}, "'auto', found 'many'"),
        ({"map": "cubic"}, "map='cubic' is not known"),
        ({"model": "c"}, "model='c' is not known"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"ideal_point": "nowhere", "model": "a"}, "ideal_point='nowhere' is not known"),
        ({"loss": "squared"}, "loss='squared' is not known"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    parts = parts_of(tiny())
    with pytest.raises(pal.InputError, match=says):
        pal.fit(parts.train, parts.validation, TrainConfig(**{**QUICK, "n_prototypes": 1, **settings}))


def test_model_b_without_prompts_is_refused():
    parts = parts_of(tiny(prompts=0))
    with pytest.raises(pal.InputError, match="model 'b' needs prompts"):
        pal.fit(parts.train, parts.validation, TrainConfig(model="b", n_prototypes=1))


def test_a_number_that_is_not_finite_is_one_clear_line(monkeypatch):
    parts = parts_of(tiny())
    monkeypatch.setattr(run_module.torch, "isfinite", lambda _: torch.tensor(False))
    with pytest.raises(pal.InputError, match=r"the loss became .* at step 0: use smaller learning rates"):
        train(parts.train, parts.validation, TrainConfig(**QUICK), 2)
