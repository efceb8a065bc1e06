import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pal
from pal.saving import FILES
from pal.testing import tiny, user_ids
from test_model import B, model_of


def read_refused(folder):
    with pytest.raises(pal.SavedModelError) as error:
        pal.RewardModel.from_pretrained(folder)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    model_of().save_pretrained(folder)
    return folder


def test_the_folder_holds_what_is_promised_and_nothing_else(saved):
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]
    head = json.loads((saved / "config.json").read_text())
    assert head["format"] == "pal-model-1"
    assert head["config"]["n_prototypes"] == 3
    users = pl.read_parquet(saved / "users.parquet")
    assert users.columns == ["user_id", "n_comparisons", "weights"]
    card = (saved / "README.md").read_text()
    assert "K = 3" in card
    assert "it knows 2 users" in card


@pytest.mark.parametrize("reliability", [None, [0.5, 2.0]])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"map": "mlp", "ideal_point": "map_of_mixture", "slope": 0.123456789, "side_bias": -0.1},
        {**B, "map": "mlp", "renormalize": True},
        {"n_prototypes": 1, "loss": "hinge", "partition": True},
    ],
)
def test_predictions_are_the_same_bit_for_bit(tmp_path, settings, reliability):
    model = model_of(["u0", "u3"], reliability=reliability, **settings)
    for parameter in model.prototypes.parameters():
        parameter.data.add_(torch.randn(parameter.shape))
    model.metrics = {"validation_log_loss": 0.5, "note": "ü", "p_value": float("nan"), "seconds": np.float32(2.0)}
    data = tiny(60, prompts=5 if settings.get("model") == "b" else 0)
    model.save_pretrained(tmp_path / "a" / "model")
    again = pal.RewardModel.from_pretrained(tmp_path / "a" / "model")
    assert np.array_equal(model.predict(data), again.predict(data))
    assert again.config == model.config
    assert again.metrics == {**model.metrics, "p_value": None, "seconds": 2.0}
    assert again.user_ids.to_list() == ["u0", "u3"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    again.save_pretrained(tmp_path / "b")
    for file in ("config.json", "model.safetensors", "metrics.json", "README.md"):
        assert (tmp_path / "a" / "model" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(user_ids, unique=True, min_size=1, max_size=5) | st.just([1, -7, 2**60]))
def test_any_user_id_is_kept(tmp_path, ids):
    model_of(ids).save_pretrained(tmp_path / "model")
    again = pal.RewardModel.from_pretrained(tmp_path / "model")
    assert again.user_ids.to_list() == ids
    assert again.users.row(ids[-1]) == len(ids) - 1


def test_a_model_of_no_users(tmp_path):
    model = model_of(["u1"]).without_users(["u1"])
    model.save_pretrained(tmp_path / "model")
    assert len(pal.RewardModel.from_pretrained(tmp_path / "model").users) == 0


def test_nothing_of_a_removed_person_stays(tmp_path):
    secret, folder = "anna.karenina@example.org", tmp_path / "model"
    model = model_of([secret, "u2", "u3"])
    gone = model.users.weights[0].numpy().tobytes()
    model.save_pretrained(folder)
    before = b"".join(p.read_bytes() for p in folder.iterdir())
    assert secret.encode() in before
    pal.RewardModel.from_pretrained(folder).without_users([secret]).save_pretrained(folder)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"karenina" not in content
            assert gone not in content
    assert "karenina" not in " ".join(str(p) for p in tmp_path.rglob("*"))
    assert pal.RewardModel.from_pretrained(folder).user_ids.to_list() == ["u2", "u3"]


@pytest.mark.parametrize("file", FILES[:4])
def test_missing_empty_and_truncated_files_are_refused(saved, file):
    whole = (saved / file).read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-3], b"\x00\xff" * 40):
        (saved / file).write_bytes(content)
        assert file in read_refused(saved)
    (saved / file).unlink()
    why = "is it a folder that pal wrote?" if file == "config.json" else "the model is not whole: copy it anew"
    assert f"no {file} here: {why}" in read_refused(saved)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), file=st.sampled_from(FILES[1:3]))
def test_one_changed_bit_is_found(saved, place, bit, file):
    content = bytearray((saved / file).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(bytes(content))
    try:
        assert "not the file that config.json was written with" in read_refused(saved)
    finally:
        (saved / file).write_bytes(whole)


def rewrite(folder, **changes):
    """Another config.json; None drops a key of the head."""
    head = json.loads((folder / "config.json").read_text())
    head = {k: v for k, v in {**head, **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(head))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: {"format": "pal-model-9"}, "format 'pal-model-9', this version of pal reads 'pal-model-1'"),
        (lambda f: {"format": None}, "format None, this version of pal reads 'pal-model-1'"),
        (lambda f: {"config": None}, "format"),
        (lambda f: {"odd": 1}, "unknown keys ['odd']: was it written by this version"),
        (lambda f: {"config": [1]}, "format"),
        (lambda f: {"sha256": None}, "no table 'sha256' of the files it was written with"),
        (lambda f: {"sha256": "nonsense"}, "no table 'sha256' of the files it was written with"),
        (lambda f: {"sha256": {}}, "not the file that config.json was written with"),
        (lambda f: {"config": {**config_of(f), "n_prototypes": 4}}, "does not fit config.json"),
        (lambda f: {"config": {**config_of(f), "latent_dim": 99}}, "does not fit config.json"),
        (lambda f: {"config": {**config_of(f), "map": "mlp"}}, "does not fit config.json"),
        (lambda f: {"config": {**config_of(f), "map": "cubic"}}, "cubic"),
        (lambda f: {"config": {**config_of(f), "extra": 1}}, "keys ['extra'] are missing or unknown"),
        (lambda f: {"config": {**config_of(f), "model": "b", "prompt_dim": 6}}, "does not fit config.json"),
        (lambda f: {"config": {**config_of(f), "slope": float("nan")}}, "slope must be a positive number"),
        (lambda f: {"config": {**config_of(f), "response_dim": "6"}}, "response_dim must be a whole number"),
        (lambda f: {"config": {**config_of(f), "slope": "steep"}}, "slope"),
        (lambda f: {"config": {**config_of(f), "prompt_dim": "6"}}, "prompt_dim"),
        (lambda f: {"config": {**config_of(f), "dropout": None}}, "config.json: "),
    ],
)
def test_a_changed_config_is_refused(saved, change, says):
    rewrite(saved, **change(saved))
    assert says in read_refused(saved)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", '"text"'])
def test_a_config_that_is_no_object_is_refused(saved, content):
    (saved / "config.json").write_text(content)
    assert "config.json" in read_refused(saved)


def signed(folder):
    """Makes config.json believe in the files beside it."""
    import hashlib

    names = ("model.safetensors", "users.parquet")
    rewrite(folder, sha256={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


@pytest.mark.parametrize(
    "users",
    [
        pl.DataFrame({"user_id": ["a"]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": [[0.5, 0.5]]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": ["x"], "weights": [[0.5, 0.25, 0.25]]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": [[0.5, None, 0.25]]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": [[float("nan"), 0.5, 0.5]]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": ["heavy"]}),
        pl.DataFrame({"user_id": ["a", "a"], "n_comparisons": [1, 1], "weights": [[0.5, 0.25, 0.25]] * 2}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": [[0.5, 0.9, 0.9]]}),
        pl.DataFrame({"user_id": ["a"], "n_comparisons": [1], "weights": [[-0.5, 1.0, 0.5]]}),
        pl.DataFrame({"user_id": [None], "n_comparisons": [1], "weights": [[0.5, 0.25, 0.25]]}),
        pl.DataFrame({"user_id": [1.5], "n_comparisons": [1], "weights": [[0.5, 0.25, 0.25]]}),
    ],
)
def test_a_foreign_table_of_users_is_refused_even_when_signed(saved, users):
    users.write_parquet(saved / "users.parquet")
    signed(saved)
    assert "users.parquet" in read_refused(saved)


def test_foreign_tensors_are_refused_even_when_signed(saved):
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    broken = [
        {},
        {k: v for k, v in state.items() if k != "atoms"},
        {**state, "more": torch.zeros(1)},
        {**state, "atoms": torch.zeros(7, 7)},
    ]
    for tensors in broken:
        save_file(tensors, saved / "model.safetensors")
        signed(saved)
        assert "model.safetensors does not fit config.json" in read_refused(saved)
    (saved / "model.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    signed(saved)
    assert "cannot be read" in read_refused(saved)


def test_a_folder_from_before_inputs_were_shifted_is_read(saved):
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    shifts = {name for name in state if name.endswith("input_shift")}
    assert shifts
    save_file({name: tensor for name, tensor in state.items() if name not in shifts}, saved / "model.safetensors")
    signed(saved)
    again = pal.RewardModel.from_pretrained(saved).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_nothing_there(tmp_path):
    assert "no such model folder" in read_refused(tmp_path / "nowhere")
    assert "no config.json here" in read_refused(tmp_path)
    (tmp_path / "file").write_text("text")
    assert "no such model folder" in read_refused(tmp_path / "file")


def test_what_is_not_a_model_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(pal.SavedModelError, match=r"not replaced by a model, since it holds 'notes.txt'"):
        model_of().save_pretrained(tmp_path)
    with pytest.raises(pal.SavedModelError, match="since it is a file"):
        model_of().save_pretrained(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "dear diary"
    assert len(list(tmp_path.iterdir())) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    model_of().save_pretrained(empty)
    assert len(pal.RewardModel.from_pretrained(empty).users) == 2


def test_a_failed_write_leaves_the_old_model_and_no_litter(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    model = model_of(seed=5)
    model.metrics = {"bad": object()}
    with pytest.raises(TypeError):
        model.save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was used")

    for module, name in ((pickle, "dump"), (pickle, "dumps"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    model_of().save_pretrained(tmp_path / "model")
    pal.RewardModel.from_pretrained(tmp_path / "model")


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_of().save_pretrained("model")
    assert len(pal.RewardModel.from_pretrained("model").users) == 2
    assert len(pal.RewardModel.from_pretrained(tmp_path / "model").users) == 2


def test_a_model_behind_a_link_is_replaced_where_it_is(tmp_path, saved):
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(saved)
    model_of(["next"]).save_pretrained(link)
    assert link.is_symlink()
    assert pal.RewardModel.from_pretrained(saved).user_ids.to_list() == ["next"]
    assert [p.name for p in link.parent.iterdir()] == ["link"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "model"]


def test_only_leftovers_of_this_folder_are_swept(tmp_path):
    kept = [".model.backup01", ".model.writing-", ".models.writing-abcd1234", ".model.writing-x.writing-abcd1234"]
    for name in [*kept, ".model.writing-abcd1234"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "users.parquet").write_text("anna")
    model_of().save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "model"])


def test_a_leftover_that_cannot_be_removed_is_named(saved, monkeypatch):
    (saved.parent / ".model.writing-abcd1234").mkdir()

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(
        pal.SavedModelError, match=r"left by a killed save, and cannot be removed \(Permission denied\)"
    ):
        model_of().save_pretrained(saved)
    assert sorted(p.name for p in saved.parent.iterdir()) == [".model.writing-abcd1234", "model"]


def test_without_locks_a_model_is_saved_and_nothing_is_swept(tmp_path, monkeypatch):
    """Nobody knows whether what lies there is dead."""
    import fcntl

    def missing(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", missing)
    (tmp_path / ".model.writing-abcd1234").mkdir()
    model_of().save_pretrained(tmp_path / "model")
    assert len(pal.RewardModel.from_pretrained(tmp_path / "model").users) == 2
    assert (tmp_path / ".model.writing-abcd1234").exists()


# A process that has imported everything forks a child for each line it reads: the number of steps of a write that the
# child may take before it is killed, "on" to save until somebody kills it, or "x20" to save 20 times.
FORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_model import model_of
from pal import saving
def dying(function, left):
    def step(*arguments, **options):
        left.pop() if left else os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return step
def child(what, folder):
    if what[0] == "x":
        for n in range(int(what[1:])):
            model_of([f"{os.getpid()}-{n}"], seed=n).save_pretrained(folder)
    elif what != "on":
        left = [0] * int(what)
        for owner, name in ((saving.Path, "rename"), (saving.Path, "write_text"), (saving.Path, "write_bytes"),
                            (saving.shutil, "rmtree"), (saving, "_sync"), (saving.os, "close")):
            setattr(owner, name, dying(getattr(owner, name), left))
        model_of(["new.person@example.org"], seed=1).save_pretrained(folder)
    while what == "on":
        for n in (300, 700):
            model_of([f"user{i}" for i in range(n)], seed=n).save_pretrained(folder)
for line in sys.stdin:
    what, folder = line.split(maxsplit=1)
    pid = os.fork()
    if pid == 0:
        child(what, folder.strip())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def forking():
    command = [sys.executable, "-c", FORKER, os.path.dirname(__file__)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def forker():
    yield from forking()


@pytest.fixture(scope="module")
def other_forker():
    yield from forking()


def start(forker, what, folder):
    """The id of the child."""
    forker.stdin.write(f"{what} {folder}\n")
    return int(forker.stdout.readline())


def code_of(forker):
    return int(forker.stdout.readline())


def test_a_kill_leaves_the_old_folder_or_the_new_one(tmp_path, forker):
    """A process that saves two models in turn is killed at many moments; what is there is always one of them."""
    folder = tmp_path / "model"
    whole = {n: model_of([f"user{i}" for i in range(n)], seed=n) for n in (300, 700)}
    whole[300].save_pretrained(folder)
    data = tiny(30, prompts=0)
    expected = {n: model.predict(data) for n, model in whole.items()}
    rng = np.random.default_rng(0)
    for _ in range(25):
        child = start(forker, "on", folder)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert code_of(forker) == -signal.SIGKILL
        model = pal.RewardModel.from_pretrained(folder)
        assert np.array_equal(model.predict(data), expected[len(model.users)])
    whole[700].save_pretrained(folder)  # and the next save goes through
    assert len(pal.RewardModel.from_pretrained(folder).users) == 700
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_kill_before_each_step_of_a_write(tmp_path, forker):
    found = []
    for steps in range(60):
        folder = tmp_path / f"{steps}" / "model"
        model_of(["old"], seed=0).save_pretrained(folder)
        start(forker, steps, folder)
        code = code_of(forker)
        assert code in (0, -signal.SIGKILL)
        found += pal.RewardModel.from_pretrained(folder).user_ids.to_list()
        model_of(["next"]).save_pretrained(folder)
        assert pal.RewardModel.from_pretrained(folder).user_ids.to_list() == ["next"]
        assert [p.name for p in folder.parent.iterdir()] == ["model"]
        if code == 0:
            break
    assert code == 0
    assert steps > 10
    assert found == sorted(found, reverse=True)  # the old model up to some step, the new one from there
    assert set(found) == {"old", "new.person@example.org"}


def holding(folder, secret):
    """Files and folders below whose name or content holds the secret."""
    return [p for p in folder.rglob("*") if secret in str(p) or (p.is_file() and secret.encode() in p.read_bytes())]


def test_a_removed_person_is_gone_after_a_killed_save(tmp_path, forker, monkeypatch, capsys):
    """A save that knows the person is killed at each step; then `pal adapt --remove` leaves nothing of them."""
    from pal import cli

    secret, left_behind = "new.person@example.org", 0
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)  # main sets its own: this puts it back
    for steps in range(60):
        folder = tmp_path / f"{steps}" / "model"
        model_of([secret, "u2"]).save_pretrained(folder)
        start(forker, steps, folder)
        code = code_of(forker)
        left_behind += any(p.name != "model" and holding(p, secret) for p in folder.parent.iterdir())
        monkeypatch.setattr(sys, "argv", ["pal", "adapt", str(folder), "--remove", secret])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0, capsys.readouterr().err
        assert holding(folder.parent, secret) == []
        assert [p.name for p in folder.parent.iterdir()] == ["model"]
        if code == 0:
            break
    assert code == 0
    assert left_behind > 5


def test_two_processes_write_one_folder(tmp_path, forker, other_forker):
    folder = tmp_path / "model"
    children = [start(process, "x40", folder) for process in (forker, other_forker)]
    assert [code_of(process) for process in (forker, other_forker)] == [0, 0]
    assert pal.RewardModel.from_pretrained(folder).user_ids[0] in {f"{child}-39" for child in children}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_process_is_killed_while_another_writes(tmp_path, forker, other_forker):
    """The other one sweeps what is dead, and nothing that lives."""
    folder = tmp_path / "model"
    rng = np.random.default_rng(1)
    for _ in range(12):
        start(other_forker, "x15", folder)
        child = start(forker, "on", folder)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert (code_of(forker), code_of(other_forker)) == (-signal.SIGKILL, 0)
        model_of(["next"]).save_pretrained(folder)
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert pal.RewardModel.from_pretrained(folder).user_ids.to_list() == ["next"]
