import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counting
import pal
from pal import cli, distributed
from pal._distributed.cluster import connected
from pal._distributed.people import placement, read_own
from pal._distributed.pieces import pieces_of
from pal._distributed.reading import Reading
from pal._distributed.training import Given, read_result
from pal._distributed.vectors import write_vectors
from pal._vectors.store import content_keys
from pal.testing import tiny
from test_shards import check_same, in_processes, same_users

ray_test = pytest.mark.ray


# -- users ---------------------------------------------------------------------------------------------------------


def test_users_are_placed_by_hash_and_balanced_by_answers():
    rng = np.random.default_rng(0)
    users = pl.Series([f"u{i}" for i in rng.zipf(1.6, 20_000).clip(max=5000)])
    worker = placement(users, 4)
    assert pl.DataFrame({"u": users, "w": worker}).group_by("u").agg(pl.col("w").n_unique())["w"].max() == 1
    counts = np.bincount(worker, minlength=4)
    largest = int(users.value_counts()["count"].max())
    assert counts.max() <= 1.1 * max(largest, len(users) / 4)
    order = rng.permutation(len(users))
    assert (placement(users.gather(order), 4) == worker[order]).all()


def test_pieces_cover_a_table_once(tmp_path):
    for name, n in (("b", 5), ("a", 23)):
        pl.DataFrame({"row": list(range(n))}).write_parquet(tmp_path / f"{name}.parquet")
    pieces = pieces_of(tmp_path, 10)
    assert [piece.rows for piece in pieces] == [10, 10, 3, 5]
    assert pl.concat([piece.read() for piece in pieces])["row"].to_list() == [*range(23), *range(5)]


# -- the same as one process: test_shards.py ---------------------------------------------------------------------------


def test_a_worker_reads_its_users_rows_from_tables(town, tmp_path):
    write_vectors(town / "embeddings.parquet", tmp_path / "vectors")
    config = pal.TrainConfig(n_prototypes=2, max_steps=40)
    reading = Reading(vectors=str(tmp_path / "vectors"))
    in_processes(Given(str(town / "comparisons.parquet"), reading, config, str(tmp_path / "state")), tmp_path)
    result = read_result(tmp_path, None)
    assert set(result.model.user_ids) == set(pal.Comparisons.read(town / "comparisons.parquet").user_ids)
    assert result.metrics["validation_log_loss"] < 0.69
    shares = [read_own(town / "comparisons.parquet", rank, 3, seed=0) for rank in range(3)]
    assert sorted(np.concatenate([own.answers for own in shares])) == list(range(sum(len(o.train) for o in shares)))
    assert sum(len(own.train) + len(own.validation) for own in shares) == 2400
    users = [set(own.train["user_id"]) | set(own.validation["user_id"]) for own in shares]
    assert not users[0] & users[1]
    assert not users[2] & (users[0] | users[1])


# -- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch, connected(2) as ray:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # Ray's own 2 would be waited for
        yield ray


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A population, its tables on disk, and a model of it."""
    folder = tmp_path_factory.mktemp("town")
    population = pal.simulation.population("a", 60, 2, 16, 40, seed=1, noise=1.0)
    pal.simulation.write(population, folder)
    data = population.data.split(unseen_users=0.0)
    pal.fit(data.train, data.validation, pal.TrainConfig(n_prototypes=2, max_steps=60)).model.save_pretrained(
        folder / "model"
    )
    return folder


def processes():
    """Process ids with their parent and their name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # else it is dead, and nobody has asked how it ended
                    found[int(entry.name)] = (parent, command)
            except OSError:
                continue
    return found


def workers_of(pid, name):
    """Processes of that name that descend from a process: only these are ever killed."""
    table, mine = processes(), []
    for one, (_, command) in table.items():
        if name in command:
            ancestor = one
            while ancestor in table and ancestor != pid:
                ancestor = table[ancestor][0]
            if ancestor == pid:
                mine.append(one)
    return mine


class Killer(threading.Thread):
    """Kills a worker of this process's cluster as soon as something is so."""

    def __init__(self, when, name="MapWorker"):
        super().__init__(daemon=True)
        self.when, self.worker, self.killed, self.stopped = when, name, [], False

    def run(self):
        while not self.stopped:
            if self.when():
                found = workers_of(os.getpid(), self.worker)
                if found:
                    os.kill(found[0], signal.SIGKILL)
                    self.killed.append(found[0])
                    return
            time.sleep(0.005)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.join()


def parts(folder, pattern, several=3):
    return lambda: len(list(folder.glob(pattern))) >= several


def check_scored(town, out):
    model = pal.RewardModel.from_pretrained(town / "model")
    table = pal.Comparisons.read(town / "comparisons.parquet")
    margin, variance = model.moments(pal.embed(table, embeddings=str(town / "embeddings.parquet")))
    scored = pl.read_parquet(sorted(out.glob("part-*.parquet")))
    assert scored.drop("margin", "probability").equals(table.to_frame())
    assert np.allclose(scored["margin"], margin, atol=1e-5)
    assert np.allclose(scored["probability"], model.probability(margin, variance), atol=1e-5)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command on two workers: what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pal", *map(str, arguments), "--workers", "2", "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        assert stop.value.code == 0, out.err
        return json.loads(out.out)

    return call


@pytest.mark.slow  # twenty seconds: `.ci/run` runs it
@ray_test
def test_score_survives_a_killed_worker(cluster, town, tmp_path, command, monkeypatch):
    monkeypatch.setattr(distributed, "ROWS", 60)
    own = [town / "comparisons.parquet", "--embeddings", town / "embeddings.parquet"]
    with Killer(parts(tmp_path, ".scored.pal-work/*/parts/part-*")) as killer:
        assert command("score", town / "model", *own, "-o", "scored") == {"rows": 2400, "out": "scored"}
    assert killer.killed
    check_scored(town, tmp_path / "scored")
    assert os.listdir(tmp_path) == ["scored"]


@pytest.mark.slow
@ray_test
def test_adapt_survives_a_killed_worker(cluster, town, tmp_path, command, monkeypatch):
    monkeypatch.setattr(distributed, "ROWS", 80)
    own = [town / "comparisons.parquet", "--embeddings", town / "embeddings.parquet"]
    with Killer(parts(tmp_path, "..model-2.adapted.pal-work/*/parts/part-*")) as killer:
        found = command("adapt", town / "model", *own, "-o", "model-2")
    assert killer.killed
    assert (found["added"], found["n_users"], len(found["gap"])) == (60, 60, 60)
    assert os.listdir(tmp_path) == ["model-2"]
    table = pal.Comparisons.read(town / "comparisons.parquet")
    model = pal.RewardModel.from_pretrained(town / "model")
    adapted = pal.adapt(model, pal.embed(table, embeddings=str(town / "embeddings.parquet")))
    same_users(model.with_users(adapted), pal.RewardModel.from_pretrained("model-2"), 1e-5)


@pytest.mark.slow
@ray_test
def test_embed_survives_a_killed_worker_and_embeds_nothing_twice(cluster, tmp_path):
    cluster.cloudpickle.register_pickle_by_value(counting)  # workers do not see this folder
    texts = [f"text {i % 150}" for i in range(400)]
    counting.comparisons_of(texts).write(tmp_path / "answers.parquet")
    encoder = counting.Counting(log=str(tmp_path / "log"), pause=0.01)
    store = tmp_path / "store"
    with Killer(lambda: (tmp_path / "log").exists()) as killer:
        made = distributed.embed(tmp_path / "answers.parquet", encoder, store, rows=100)
    assert killer.killed
    contents = pl.Series(sorted(set(texts)))
    rows = made.rows(content_keys(contents, "text"))
    assert sorted(rows) == list(range(150))
    assert (made.read(rows) == counting.vectors_of(contents.to_list())).all()
    (tmp_path / "log").unlink()
    pal.embed(counting.comparisons_of([*texts, "a new one"]), encoder, store=store)
    assert (tmp_path / "log").read_text() == "a new one\n"


def fitting():
    data = pal.simulation.population("a", 40, 2, 16, 100, seed=1, noise=1.0).data
    unit = data.responses / np.linalg.norm(data.responses, axis=1, keepdims=True)
    config = pal.TrainConfig(
        model="a", n_prototypes=2, map="linear", max_steps=40, last_passes=1, batch_size=256, patience=100
    )
    return pal.EmbeddedComparisons(data.comparisons, unit, None).split(unseen_users=0.0), config


@pytest.mark.slow  # forty seconds: likewise
@ray_test
def test_fit_survives_a_killed_worker(cluster, tmp_path):
    data, config = fitting()
    one = pal.fit(data.train, data.validation, config)
    pooled_done = parts(tmp_path, "state/.fit.pal-work/*/checkpoints/prototypes-1.*", 2)
    with Killer(pooled_done, "TrainWorker") as killer:
        two = distributed.fit(data.train, data.validation, config, checkpoint=tmp_path / "state")
    assert killer.killed
    check_same(one, two)
    two.model.save_pretrained(tmp_path / "model")
    model = pal.RewardModel.from_pretrained(tmp_path / "model")
    assert set(model.user_ids) == set(data.train.comparisons.user_ids)


@pytest.mark.slow
@ray_test
def test_going_on_is_the_same_in_several_workers(cluster):
    data = pal.simulation.population("a", 24, 2, 6, 40, noise=0.3).data.split(unseen_users=0.0, test=0.3)
    config = pal.TrainConfig(map="linear", max_steps=60)
    first = pal.fit(data.train, data.validation, replace(config, n_prototypes=2)).model
    new = data.test.split(unseen_users=0.0, test=0.0, validation=0.2)
    one = pal.fit(new.train, new.validation, config, start=first)
    two = distributed.fit(new.train, new.validation, config, start=first, workers=2)
    same_users(one.model, two.model, 1e-3)


@ray_test
def test_what_is_wrong_is_said_once(cluster, town, tmp_path):
    with pytest.raises(pal.InputError, match="too few for 2 workers"):
        distributed.fit(tiny(60, users=1), config=pal.TrainConfig(n_prototypes=1, max_steps=5))
    bad = pl.read_parquet(town / "comparisons.parquet").with_columns(label=pl.lit(7.0))
    bad.write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(pal.InputError, match=r"bad\.parquet, rows 1 to") as error:
        distributed.score(
            town / "model", tmp_path / "bad.parquet", tmp_path / "out", embeddings=town / "embeddings.parquet"
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(pal.InputError, match="ask for no more"):
        distributed.score(town / "model", town / "comparisons.parquet", tmp_path / "out", workers=99)


# -- without a cluster -------------------------------------------------------------------------------------------------


def test_without_ray_the_install_command_is_named(monkeypatch, town, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(pal.MissingExtraError, match=r"pal-alignment\[ray\]"):
        distributed.score(town / "model", town / "comparisons.parquet", tmp_path / "out")


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "nobody answers"), ("here", "HOST:PORT")])
def test_an_address_without_a_cluster_is_said_at_once(monkeypatch, address, said):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.perf_counter()
    with pytest.raises(pal.InputError, match=said), connected(2, address):
        pass
    assert time.perf_counter() - began < 20


def test_what_cannot_be_is_refused_before_workers_start(town, tmp_path):
    table = town / "comparisons.parquet"
    for call, says in (
        (lambda: distributed.fit(tiny(), threads=0), "threads must be a whole number of at least 1"),
        (lambda: distributed.fit(table), "a table needs vectors: name the encoder="),
        (lambda: distributed.fit(5), "train must be a path"),
        (lambda: distributed.score(town / "model", table, tmp_path / "out", rows=-5), "rows must be a whole number"),
        (lambda: distributed.users_of(tmp_path), "give the folder that distributed.adapt wrote"),
    ):
        with pytest.raises(pal.InputError, match=says):
            call()


@pytest.mark.parametrize("workers", [0, True, 1.5])
def test_workers_are_a_whole_number(workers):
    with pytest.raises(pal.InputError, match="whole number"), connected(workers):
        pass


# -- the driver killed -------------------------------------------------------------------------------------------------

DRIVER = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    import pal
    from pal import distributed
    from test_distributed import fitting
    if __name__ == "__main__":
        folder, town = Path(sys.argv[1]), Path(sys.argv[3])
        if sys.argv[4] == "fit":
            data, config = fitting()
            distributed.fit(data.train, data.validation, config, checkpoint=folder / "state")
        else:
            own = {"embeddings": town / "embeddings.parquet", "rows": 5}
            distributed.score(town / "model", town / "comparisons.parquet", folder / "scored", **own)
"""


def killed_driver(folder, town, what, when):
    """Starts a driver with a cluster of its own, and kills it once something is so."""
    script = folder.parent / f"{folder.name}-driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    here = str(Path(__file__).parent)
    driver = subprocess.Popen([sys.executable, str(script), str(folder), here, str(town), what])
    while not when():
        assert driver.poll() is None
        time.sleep(0.005)
    workers = workers_of(driver.pid, "ray::")
    agents = workers_of(driver.pid, "Agent")  # of Ray's own, which take their time
    driver.kill()
    driver.wait()
    left, until = set(workers) - set(agents), time.time() + 60
    while left & set(processes()) and time.time() < until:
        time.sleep(0.1)
    assert not left & set(processes())  # its cluster goes with it
    for agent in set(agents) & set(processes()):
        os.kill(agent, signal.SIGKILL)


@ray_test
@pytest.mark.slow
def test_score_goes_on_after_its_driver_was_killed(cluster, town, tmp_path):
    killed_driver(tmp_path, town, "score", parts(tmp_path, ".scored.pal-work/*/parts/part-*", 20))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob(".scored.pal-work/*/parts/part-*")}
    assert 20 <= len(before) < 480
    own = {"embeddings": town / "embeddings.parquet", "rows": 5}
    distributed.score(town / "model", town / "comparisons.parquet", tmp_path / "scored", **own)
    check_scored(town, tmp_path / "scored")
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scored").iterdir()}
    assert len(after) == 480
    assert {name: after[name] for name in before} == before


@ray_test
@pytest.mark.slow
def test_fit_goes_on_after_its_driver_was_killed(cluster, town, tmp_path):
    pooled_done = parts(tmp_path, "state/.fit.pal-work/*/checkpoints/prototypes-1.*", 2)
    killed_driver(tmp_path, town, "fit", pooled_done)
    data, config = fitting()
    two = distributed.fit(data.train, data.validation, config, checkpoint=tmp_path / "state")
    check_same(pal.fit(data.train, data.validation, config), two)
