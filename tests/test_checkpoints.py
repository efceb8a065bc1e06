"""Training that is killed or interrupted goes on from what it left, and from the same data alone."""

import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

import pal
from pal import TrainConfig, training
from pal._training import run as run_module
from pal.testing import tiny
from small import QUICK, parts_of, same, with_checkpoint

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pal._training import run
from small import with_checkpoint
run.SAVE_EVERY = 0.0
with_checkpoint(sys.argv[2])
"""


def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(textwrap.dedent(SCRIPT))
    here, checkpoint = str(Path(__file__).parent), tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(script), here, str(checkpoint)])
    file = checkpoint / "prototypes-3.safetensors"
    while not file.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert same(with_checkpoint(tmp_path / "whole"), with_checkpoint(checkpoint))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    parts = parts_of(tiny())
    config = TrainConfig(model="b", n_prototypes=2, **QUICK)
    pal.fit(parts.train, parts.validation, config, checkpoint=tmp_path)
    with pytest.raises(pal.InputError, match="a checkpoint of other data or settings: delete it"):
        pal.fit(parts.train, parts.validation, replace(config, lr=1e-2), checkpoint=tmp_path)
    (tmp_path / "prototypes-1.safetensors").write_bytes(b"nonsense")
    with pytest.raises(pal.SavedModelError, match="delete it to start anew"):
        pal.fit(parts.train, parts.validation, config, checkpoint=tmp_path)


@pytest.mark.parametrize("changed", ["vectors", "answers", "validation"])
def test_a_checkpoint_of_other_data_is_refused(changed, tmp_path):
    parts = parts_of(tiny())
    train, validation = parts.train, parts.validation
    config = TrainConfig(model="b", n_prototypes=1, **QUICK)
    pal.fit(train, validation, config, checkpoint=tmp_path)
    if changed == "vectors":
        train = replace(train, responses=train.responses[::-1].copy())
    elif changed == "answers":
        table = train.comparisons
        train = replace(train, comparisons=replace(table, label=table.label[::-1].copy()))
    else:
        validation = validation.take(np.arange(len(validation) - 1))
    with pytest.raises(pal.InputError, match="a checkpoint of other data or settings: delete it"):
        pal.fit(train, validation, config, checkpoint=tmp_path)


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(run_module.checkpoint, "save_file", full)
    parts = parts_of(tiny())
    with pytest.raises(pal.SavedModelError, match=r"prototypes-1.safetensors.new: cannot be written: No space left"):
        pal.fit(parts.train, parts.validation, TrainConfig(model="b", n_prototypes=1, **QUICK), checkpoint=tmp_path)


def test_a_checkpoint_goes_into_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pal.selection"], "explore", None)  # it is said before there is something to keep
    (tmp_path / "file").write_text("x")
    for place, says in ((tmp_path / "file", "file is a file: choose a folder"), (5, "checkpoint must be a path")):
        with pytest.raises(pal.InputError, match=says):
            pal.fit(tiny(), checkpoint=place)


def test_a_model_whose_making_was_interrupted_is_made_when_asked_for_again(monkeypatch):
    parts = parts_of(tiny())
    config = TrainConfig(model="b", n_prototypes=2, dropout=0.2, **QUICK)
    result, whole = (pal.fit(parts.train, parts.validation, config) for _ in range(2))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "refitted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.models[1]
    monkeypatch.undo()
    assert same(result.models[1], whole.models[1])
