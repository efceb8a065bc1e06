"""Comparisons: every container and kind of file they are read from."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import pal
from datasets import Dataset
from pal._tables import frames
from pal.comparisons import Comparisons
from pal.errors import InputError
from test_comparisons import rows

SHARED = Path(__file__).parents[2] / "shared" / "data"


TABLE = {"user_id": ["a", "b"], "left": ["x", "y"], "right": ["y", "z"], "label": [1.0, 0.5], "extra": [[1], [2]]}


@pytest.mark.filterwarnings("ignore:user 'b' gave nothing but ties")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Comparisons.from_frame(pl.DataFrame(TABLE)),
        lambda: Comparisons.from_frame(pl.DataFrame(TABLE).lazy()),
        lambda: Comparisons.from_frame(pd.DataFrame(TABLE)),
        lambda: Comparisons.from_frame(pd.DataFrame(TABLE).astype({"user_id": "category", "left": object})),
        lambda: Comparisons.from_frame(pl.DataFrame(TABLE).to_arrow()),
        lambda: Comparisons.from_huggingface(Dataset.from_dict(TABLE)),
        lambda: Comparisons.from_columns(
            **{name: tuple(TABLE[name]) for name in ("user_id", "left", "right", "label")}
        ),
        lambda: Comparisons.from_columns(
            **{name: pd.Series(TABLE[name]) for name in ("user_id", "left", "right", "label")}
        ),
        lambda: Comparisons.from_columns(
            **{name: np.array(TABLE[name]) for name in ("user_id", "left", "right", "label")}
        ),
    ],
)
def test_containers(make: Callable[[], Comparisons]) -> None:
    assert rows(make()) == [("a", "x", "y", 1.0), ("b", "y", "z", 0.5)]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt16, pl.Int64, pl.UInt64])
def test_integers_of_users_become_int64(dtype: type[pl.DataType]) -> None:
    users = pl.Series([3, 1, 3], dtype=dtype)
    found = Comparisons.from_columns(user_id=users, left=["a"] * 3, right=["b"] * 3, label=[1] * 3)
    assert found.user_ids.dtype == pl.Int64
    assert found.user_ids.to_list() == [3, 1]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    "ids", [["a.b@c.d", "keys", "🦜", "x" * 10_000, " ", "null", "1", "\u00e9", "e\u0301"], [0, -5, 2**63 - 1]]
)
def test_user_ids_of_every_kind_survive(tmp_path: Path, ending: str, ids: list[Any]) -> None:
    n = len(ids)
    found = Comparisons.from_columns(user_id=ids, left=["a"] * n, right=["b"] * n, label=[1] * n)
    found.write(tmp_path / f"t.{ending}")
    again = Comparisons.read(tmp_path / f"t.{ending}")
    # a csv file cannot say which ids are integers
    assert again.user_ids.to_list() == ([str(one) for one in ids] if ending == "csv" else ids)


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffuser_id,left,right,label\r\n1,"a\r\nb",c,left\r\n\r\n2,c,d,0\r\n,,,\r\n'.encode())
    assert rows(Comparisons.read(path)) == [("1", "a\r\nb", "c", 1.0), ("2", "c", "d", 0.0)]


def test_jsonl_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '\ufeff{"label": true, "user_id": "a", "left": "x", "right": "y", "about": {"user_id": 3}}\n\n'
        '{"user_id": "b", "left": "x", "right": "y", "label": 0.25, "about": 1}\n'
        '{"user_id": "c", "left": "x", "right": "y", "label": "right"}',
        encoding="utf-8",
    )
    assert [row[-1] for row in rows(Comparisons.read(path))] == [1.0, 0.25, 0.0]


def test_several_files(tmp_path: Path) -> None:
    for name, user in (("one.csv", "b"), ("two.csv", "a")):
        (tmp_path / name).write_text(f"user_id,chosen,rejected\n{user},x,y\nb,y,z\n")
    found = Comparisons.read([tmp_path / "one.csv", str(tmp_path / "two.csv")])
    assert rows(found) == [("b", "x", "y"), ("b", "y", "z"), ("a", "x", "y"), ("b", "y", "z")]


def test_pieces_are_one_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    left = random.integers(0, 30, 1000)
    columns = {
        "user_id": random.integers(0, 50, 1000).tolist(),
        "left": [f"r{i}" for i in left],
        "right": [f"r{i}" for i in (left + random.integers(1, 30, 1000)) % 30],
        "label": random.random(1000),
        "prompt": [f"p{i}" for i in random.integers(0, 9, 1000)],
        "weight": 1 + random.random(1000),
    }
    whole = Comparisons.from_columns(**columns)
    whole.write(tmp_path / "t.parquet")
    monkeypatch.setattr(frames, "_PIECE_ROWS", 140)
    monkeypatch.setattr(frames, "_PIECE_BYTES", 1000)
    for cut in (Comparisons.from_columns(**columns), Comparisons.read(tmp_path / "t.parquet")):
        assert cut.to_frame().equals(whole.to_frame())
        np.testing.assert_array_equal(cut.left, whole.left)
        assert cut.responses.ids.equals(whole.responses.ids)
    columns["label"][777] = 2
    with pytest.raises(InputError, match="row 778, column 'label'"):
        Comparisons.from_columns(**columns)


def test_values_that_share_a_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "user_id": ["a", "b"] * 150,
        "left": [f"l{i}" for i in range(300)],
        "right": ["r"] * 300,
        "label": [1.0] * 300,
    }
    whole, plain = Comparisons.from_columns(**columns), pl.Series.hash
    monkeypatch.setattr(frames, "_PIECE_ROWS", 140)
    monkeypatch.setattr(frames, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(pl.Series, "hash", lambda values, seed: plain(values, seed) % (16 if seed < 2 else 1 << 63))
    cut = Comparisons.from_columns(**columns)
    assert cut.to_frame().equals(whole.to_frame())
    assert cut.responses.ids.equals(whole.responses.ids)


def test_shared_tables() -> None:
    folder = SHARED / "ukpconvarg"
    if not folder.exists():
        pytest.skip("the UKPConvArg tables are not in ../shared/data")
    with pytest.warns(UserWarning, match="users .* gave nothing but ties"):
        found = Comparisons.read(folder / "judgements.parquet")
    assert len(found) == 84_445
    assert found.responses.kind == "id"
    assert found.prompts is not None
    assert len(found.prompts) == 32


def test_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pal, "Comparisons", Comparisons, raising=False)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
