import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counting import Counting, comparisons_of, one_line, vectors_of
from pal.comparisons import Comparisons, Items
from pal.embeddings import EmbeddingStore, HashingEncoder, default_store, embed
from pal.errors import InputError


@settings(max_examples=10, deadline=None)
@given(
    batches=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_store_gives_back_what_was_embedded(tmp_path_factory, batches, dtype):
    folder = tmp_path_factory.mktemp("store")
    encoder = Counting()
    for texts in batches:
        items = Items(pl.Series(texts, dtype=pl.String), pl.Series(texts, dtype=pl.String), "text")
        data = embed(one_comparison(items), encoder, store=folder, dtype=dtype)
        np.testing.assert_array_equal(data.responses, vectors_of(texts).astype(dtype))
        assert data.responses.dtype == dtype
    everything = set(itertools.chain(*batches))
    assert sorted(encoder.seen) == sorted(everything)  # each once
    on_disk = np.load(folder / "vectors.npy", mmap_mode="r")
    assert on_disk.shape == (len(everything), 4)
    assert on_disk.dtype == dtype
    assert len(pl.read_parquet(folder / "ids.parquet")) == len(everything)


def one_comparison(items):
    """A table of any unique texts, as `Comparisons` would have them; rows of it do not matter here."""
    empty = comparisons_of(["x", "y"]).take([])
    return Comparisons(
        **{name: getattr(empty, name) for name in empty.__dataclass_fields__ if name != "responses"},
        responses=items,
    )


def test_store_is_written_down(tmp_path):
    embed(comparisons_of(["a", "b"]), HashingEncoder(16), store=tmp_path / "new" / "store")
    manifest = json.loads((tmp_path / "new" / "store" / "manifest.json").read_text())
    assert manifest == {
        "format": 1,
        "encoder": "hashing-16",
        "revision": "1",
        "kind": "text",
        "dimension": 16,
        "dtype": "float32",
        "normalised": True,
    }
    store = EmbeddingStore(tmp_path / "new" / "store")
    assert len(store) == 2
    assert "hashing-16" in repr(store)
    assert set(store.ids) == {hashlib.sha256(text.encode()).hexdigest() for text in ("a", "b")}
    with pytest.raises(InputError, match="has rows 0 to 1, asked for 0 to 2"):
        store.read(np.array([0, 2]))
    assert store.read(np.zeros(0, np.int64)).shape == (0, 16)


def test_not_normalised_is_said(tmp_path):
    embed(comparisons_of(["a", "b"]), Counting(), store=tmp_path / "s")
    assert EmbeddingStore(tmp_path / "s").manifest["normalised"] is False


def test_default_store_is_apart_for_each_encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("PAL_CACHE", str(tmp_path / "cache"))
    comparisons = comparisons_of(["a", "b"])
    encoder = Counting()
    for _ in range(2):
        embed(comparisons, encoder, store=True)
    embed(comparisons, Counting(revision="2"), store=True)
    embed(comparisons, Counting(), store=True, dtype="float16")
    assert encoder.calls == 1
    assert len(list((tmp_path / "cache" / "embeddings").iterdir())) == 3
    assert default_store(encoder).parent == tmp_path / "cache" / "embeddings"


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            Counting("other"),
            "is of encoder 'counting', not 'other': name that encoder, or use another folder",
        ),
        (Counting(revision="2"), "is of revision 1 of encoder 'counting', not 2"),
        (Counting(dim=5), "is of dimension 4, not 5"),
    ],
)
def test_another_encoder_is_refused(tmp_path, encoder, message):
    comparisons = comparisons_of(["a", "b"])
    embed(comparisons, Counting(), store=tmp_path / "s")
    with pytest.raises(InputError, match=message) as error:
        embed(comparisons, encoder, store=tmp_path / "s")
    assert one_line(error)


def test_dtype_of_a_store(tmp_path):
    comparisons = comparisons_of(["a", "b"])
    embed(comparisons, Counting(), store=tmp_path / "half", dtype="float16")
    with pytest.raises(InputError, match="is of dtype float16, not float32: pass dtype='float16'"):
        embed(comparisons, Counting(), store=tmp_path / "half")
    embed(comparisons, Counting(), store=tmp_path / "whole")
    data = embed(comparisons, encoder := Counting(), store=tmp_path / "whole", dtype="float16")
    assert data.responses.dtype == np.float16
    assert encoder.calls == 0


def damaged_store(tmp_path, damage):
    folder = tmp_path / "s"
    embed(comparisons_of(["a", "bb", "ccc"]), Counting(), store=folder)
    damage(folder)
    with pytest.raises(InputError) as error:
        embed(comparisons_of(["a", "bb", "ccc"]), Counting(), store=folder)
    assert "delete the folder and embed anew" in one_line(error)
    return str(error.value)


def cut(name, size):
    def damage(folder):
        os.truncate(folder / name, size)

    return damage


def flip(folder):
    with (folder / "vectors.npy").open("r+b") as file:
        file.seek(128 + 5)
        byte = file.read(1)
        file.seek(128 + 5)
        file.write(bytes([byte[0] ^ 1]))


def other_ids(folder):
    pl.DataFrame({"id": ["x"]}).write_parquet(folder / "ids.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("vectors.npy", 150), "vectors.npy has 150 bytes, 3 ids need 176: it was cut"),
        (cut("vectors.npy", 0), "vectors.npy is no array"),
        (flip, "vectors.npy was changed in row"),
        (cut("ids.parquet", 40), "ids.parquet cannot be read"),
        (cut("ids.parquet", 0), "ids.parquet cannot be read"),
        (other_ids, "ids.parquet has columns id, not id, checksum"),
        (cut("manifest.json", 30), "manifest.json is missing or cannot be read"),
        (
            lambda folder: (folder / "manifest.json").write_text("[]"),
            "manifest.json is missing or cannot be read",
        ),
        (lambda folder: (folder / "vectors.npy").unlink(), "vectors.npy is missing"),
        (lambda folder: (folder / "ids.parquet").unlink(), "ids.parquet is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    ],
)
def test_damaged_stores_are_refused(tmp_path, damage, message):
    assert message in damaged_store(tmp_path, damage)


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files \(thesis.txt\): give an empty or a new folder"):
        embed(comparisons_of(["a", "b"]), Counting(), store=tmp_path)
    with pytest.raises(InputError, match=r"is no embedding store: manifest.json is missing"):
        EmbeddingStore(tmp_path)
    (tmp_path / "s").mkdir()
    embed(comparisons_of(["a", "b"]), Counting(), store=tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(InputError, match="has format 9, this version of PAL reads 1: update PAL"):
        EmbeddingStore(tmp_path / "s")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made: File exists"):
        embed(comparisons_of(["a", "b"]), Counting(), store=tmp_path / "file")


CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_embeddings import Counting, comparisons_of
from pal.embeddings import EmbeddingStore, embed
EmbeddingStore.commit_seconds = 0.02
commits = 0
real = EmbeddingStore._commit

def commit(self, ids):
    global commits
    commits += 1
    if commits == {kill_at}:  # the vectors are on disk, their ids are not
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, ids)

EmbeddingStore._commit = commit
texts = [f"text {{i}}" for i in range({first}, {last})]
print("ready", flush=True)
sys.stdin.readline()
data = embed(comparisons_of(texts), Counting(log={log!r}, pause={pause}), store={folder!r}, batch_size=16)
print(float(data.responses.sum()))
"""


def child(folder, log, first, last, kill_at=-1, pause=0.0002):
    tests = str(Path(__file__).parent)
    script = CHILD.format(
        tests=tests, kill_at=kill_at, first=first, last=last, log=str(log), pause=pause, folder=str(folder)
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def keys_of(texts):
    return {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}


def test_killed_between_vectors_and_ids_then_resumed(tmp_path):
    folder, log = tmp_path / "s", tmp_path / "log"
    process = child(folder, log, 0, 1000, kill_at=3)  # the first commit is the empty store
    with process:
        go(process)
    assert process.returncode == -signal.SIGKILL
    texts = [f"text {i}" for i in range(1000)]
    keys = keys_of(texts)
    store = EmbeddingStore(folder)
    kept = {keys[key] for key in store.ids}
    assert 0 < len(kept) < len(log.read_text().splitlines())  # a chunk was lost
    assert len(np.load(folder / "vectors.npy", mmap_mode="r")) > len(kept)  # its vectors are a torn tail
    np.testing.assert_array_equal(store.read(np.arange(len(store))), vectors_of([keys[key] for key in store.ids]))
    encoder = Counting()
    data = embed(comparisons_of(texts), encoder, store=folder)
    assert sorted(encoder.seen) == sorted(set(texts) - kept)  # nothing lost, nothing repeated
    np.testing.assert_array_equal(data.responses, vectors_of(texts))
    assert np.load(folder / "vectors.npy", mmap_mode="r").shape == (1000, 4)


def test_killed_while_the_store_was_made(tmp_path):
    process = child(tmp_path / "s", tmp_path / "log", 0, 10, kill_at=1)
    with process:
        go(process)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match=r"ids.parquet is missing"):
        EmbeddingStore(tmp_path / "s")
    texts = [f"text {i}" for i in range(10)]
    data = embed(comparisons_of(texts), Counting(), store=tmp_path / "s")
    np.testing.assert_array_equal(data.responses, vectors_of(texts))


def test_killed_at_any_moment_then_resumed(tmp_path):
    folder, log = tmp_path / "s", tmp_path / "log"
    texts = [f"text {i}" for i in range(4000)]
    keys = keys_of(texts)
    kept: set[str] = set()
    for delay in (0.0, 0.03):
        before = log.read_text().splitlines() if log.exists() else []
        process = child(folder, log, 0, 4000)
        with process:
            go(process)
            while process.poll() is None and lines(log) < len(before) + 300:  # past the first commit
                time.sleep(0.002)
            time.sleep(delay)
            process.kill()
        assert not set(log.read_text().splitlines()[len(before) :]) & kept
        kept = {keys[key] for key in EmbeddingStore(folder).ids}
        assert kept
    encoder = Counting()
    data = embed(comparisons_of(texts), encoder, store=folder)
    assert sorted(encoder.seen) == sorted(set(texts) - kept)
    np.testing.assert_array_equal(data.responses, vectors_of(texts))


def test_two_processes_at_once_embed_each_text_once(tmp_path):
    folder = tmp_path / "s"
    ranges = [(0, 1500), (500, 2000)]
    processes = [child(folder, tmp_path / f"log{i}", *span) for i, span in enumerate(ranges)]
    for process in processes:
        go(process)
    for process, (first, last) in zip(processes, ranges, strict=True):
        with process:
            total = float(process.stdout.readline())
        assert total == float(vectors_of([f"text {i}" for i in range(first, last)]).sum())
    logs = [(tmp_path / f"log{i}").read_text().splitlines() for i in range(2)]
    assert sorted(logs[0] + logs[1]) == sorted(f"text {i}" for i in range(2000))
    assert all(logs)
    assert len(EmbeddingStore(folder)) == 2000
