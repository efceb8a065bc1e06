import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch

import pal
from pal import TrainConfig
from pal.testing import tiny
from pal.training import model_config


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": -1}, "lr must be a positive number"),
        ({"n_prototypes": 0}, "whole numbers of at least 1"),
        ({"n_prototypes": "many"}, "'auto', found 'many'"),
        ({"map": "cubic"}, "map='cubic' is not known"),
        ({"model": "c"}, "model='c' is not known"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"ideal_point": "nowhere", "model": "a"}, "ideal_point='nowhere' is not known"),
        ({"loss": "squared"}, "loss='squared' is not known"),
        ({"last_passes": -1}, "last_passes must be a whole number of at least 0"),
        ({"weight_decay": -1e-3}, "weight_decay must be a number of at least 0"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
        ({"lr": "a"}, "lr must be a positive number, found 'a'"),
        ({"last_passes": 1.5}, "last_passes must be a whole number of at least 0, found 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"eval_every": 0}, "eval_every must be"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"patience": -1}, "patience must be"),
        ({"drops": -1}, "drops must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**70}, "seed must be"),
        ({"model": "b", "prompt": "none"}, "prompt='none' is for model 'a'"),
        ({"partition": "yes"}, "partition must be True or False, found 'yes'"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(pal.InputError, match=says):
        TrainConfig(**settings)  # before anything is trained


def test_numbers_of_prototypes_may_be_any_sequence():
    for several in ([1, 2], (1, 2), range(1, 3), np.array([1, 2])):
        assert TrainConfig(n_prototypes=several) == TrainConfig(n_prototypes=(1, 2))
    given = TrainConfig(n_prototypes=np.int64(3), seed=np.int64(1), lr=np.float32(0.5), batch_size=np.int32(8))
    assert json.loads(json.dumps(asdict(given))) == asdict(TrainConfig(n_prototypes=3, seed=1, lr=0.5, batch_size=8))


def test_settings_of_model_a_alone_mean_model_a():
    data = tiny()
    assert model_config(data, TrainConfig(), 2).model == "b"
    assert model_config(data, TrainConfig(prompt="concatenate"), 2).model == "a"


def test_model_b_takes_no_joint_texts():
    joint = pal.embed(pal.simulation.demo(n_users=12), "hashing", prompt_mode="joint")
    with pytest.raises(pal.InputError, match="model 'b' takes prompts apart"):
        pal.fit(joint, None, TrainConfig(model="b", n_prototypes=1))


def test_arguments_of_other_kinds_are_refused():
    data = tiny()
    for call, says in (
        (
            lambda: pal.fit(data, None, {"n_prototypes": 2}),
            "config must be a pal.TrainConfig, found {'n_prototypes': 2}",
        ),
        (lambda: pal.fit(data, data.comparisons), "call pal.embed first"),
        (lambda: pal.fit(data, None, start="m"), "start must be a pal.RewardModel, found 'm'"),
        (lambda: pal.select(data, config=3), "config must be"),
        (lambda: pal.baselines.compare(data, ["majority"], {"lr": 1}), "config must be"),
        (lambda: pal.baselines.fit("btl", data, data.comparisons), "call pal.embed first"),
        (lambda: pal.baselines.fit(["majority"], data), "is not known"),
        (lambda: pal.baselines.fit("factor", data.take([])), "no training comparisons"),
        (lambda: pal.embed("answers.csv"), "comparisons must be pal.Comparisons, found 'answers.csv'"),
        (lambda: TrainConfig(n_prototypes=torch.tensor(2)), "whole numbers of at least 1 or 'auto', found tensor(2)"),
        (lambda: pal.evaluate("m", data), "model must be a reward model or a baseline, found 'm'"),
        (lambda: pal.shot_curve(None, data), "model must be a reward model or a baseline, found None"),
    ):
        with pytest.raises(pal.InputError, match=re.escape(says)):
            call()
