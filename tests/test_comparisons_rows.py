"""Comparisons: what writing, swapping, cutting and joining must keep."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pal.comparisons import Comparisons, Items
from pal.errors import InputError
from test_comparisons import rows

TWO: dict[str, Any] = {"user_id": ["a", "b"], "left": ["x", "y"], "right": ["y", "z"], "label": [1, 0]}
words = st.text(min_size=1, max_size=8)
user_ids = st.one_of(
    st.lists(words, min_size=1, max_size=4, unique=True),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4, unique=True),
)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparisons:
    """Small tables of every text and id form."""
    n = draw(st.integers(1, 12))
    users = draw(user_ids)
    items = draw(st.lists(words, min_size=2, max_size=6, unique=True))
    pairs = [draw(st.permutations(items))[:2] for _ in range(n)]
    ids = draw(st.sampled_from(["", "_id"]))
    columns: dict[str, Any] = {"user_id": draw(st.lists(st.sampled_from(users), min_size=n, max_size=n))}
    if draw(st.booleans()):
        columns |= {f"left{ids}": [a for a, _ in pairs], f"right{ids}": [b for _, b in pairs]}
        columns["label"] = draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n))
    else:
        columns |= {f"chosen{ids}": [a for a, _ in pairs], f"rejected{ids}": [b for _, b in pairs]}
    optional = {
        f"prompt{ids}": words,
        "weight": st.floats(2.0**-20, 2.0**20, width=32),
        "timestamp": st.integers(0, 2**40),
        "split": st.sampled_from(["train", "validation", "test", "unseen"]),
    }
    for name, values in optional.items():
        if draw(st.booleans()):
            columns[name] = draw(st.lists(values, min_size=n, max_size=n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Comparisons.from_columns(**columns)


@settings(max_examples=60, deadline=None)
@given(comparisons(), st.sampled_from(["parquet", "jsonl", "csv"]))
def test_writing_and_reading_keep_everything(
    tmp_path_factory: pytest.TempPathFactory, found: Comparisons, ending: str
) -> None:
    path = tmp_path_factory.mktemp("t") / f"t.{ending}"
    found.write(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = Comparisons.read(path)
    expected = found.to_frame()
    if ending == "csv":
        expected = expected.with_columns(pl.col("^user_id|timestamp$").cast(pl.String))
    assert again.to_frame().equals(expected)
    assert again.sided == found.sided
    assert again.responses.ids.equals(found.responses.ids)
    assert again.responses.kind == found.responses.kind
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Comparisons.from_columns(**TWO)
    path = tmp_path / "t.parquet"
    found.write(path)
    before = path.read_bytes()

    def killed(self: pl.DataFrame, file: Any, **_options: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        found.write(path)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["t.parquet"]
    with pytest.raises(InputError, match=r"unknown ending '.xlsx'; write to .parquet"):
        found.write(tmp_path / "t.xlsx")
    with pytest.raises(InputError, match="make it first"):
        found.write(tmp_path / "no" / "t.csv")


@settings(max_examples=40, deadline=None)
@given(comparisons(), st.randoms(use_true_random=False))
def test_swapping_twice_changes_nothing(found: Comparisons, random: Any) -> None:
    mask = np.array([random.random() < 0.5 for _ in range(len(found))])
    once = found.swapped(mask)
    np.testing.assert_array_equal(once.left[mask], found.right[mask])
    np.testing.assert_array_equal(once.label[mask], 1 - found.label[mask])
    np.testing.assert_array_equal(once.left[~mask], found.left[~mask])
    twice = once.swapped(mask)
    np.testing.assert_array_equal(twice.left, found.left)
    np.testing.assert_array_equal(twice.right, found.right)
    np.testing.assert_allclose(twice.label, found.label, atol=1e-7)
    if not found.sided:  # who was preferred does not hang on the side
        assert once.to_frame().equals(found.to_frame())


@settings(max_examples=40, deadline=None)
@given(comparisons(), st.randoms(use_true_random=False))
def test_taking_and_compacting_keep_the_rows(found: Comparisons, random: Any) -> None:
    index = np.array([random.randrange(-len(found), len(found)) for _ in range(random.randrange(1, 8))])
    part = found.take(index)
    expected = found.to_frame()[(index % len(found)).tolist()]
    assert part.to_frame().equals(expected)
    assert part.responses is found.responses
    small = part.compact()
    assert small.to_frame().equals(expected)
    assert len(small.user_ids) == small.n_users == part.n_users
    assert len(small.responses) == len({*part.left, *part.right})
    mask = np.isin(np.arange(len(found)), index % len(found))
    assert found.take(mask).to_frame().equals(found.to_frame().filter(mask))


def test_take() -> None:
    found = Comparisons.from_columns(**TWO)
    assert len(found.take([])) == 0
    assert len(found.take([]).compact().responses) == 0
    assert rows(found.take(slice(1, None))) == rows(found)[1:]
    assert rows(found.take([True, False])) == rows(found)[:1]
    for bad, message in (
        ([5], r"row 5 asked for, but there are 2 rows"),
        ([-3], r"row -3 asked for, but there are 2 rows"),
        (np.array([True]), r"one value a row, \(2,\); found \(1,\)"),
        ([0.5], "rows must be integers"),
    ):
        with pytest.raises(InputError, match=message):
            found.take(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a mask must be bool \(2,\)"):
        found.swapped(np.array([1, 0]))


def test_joined() -> None:
    found = Comparisons.from_columns(
        user_id=[1, 1, 2], left=["a", "a", "b"], right=["b", "b", "a"], label=[1, 0, 1], prompt=["p", "q", "p"]
    )
    joint = found.joined()
    assert rows(joint) == [
        (1, "p", "p\n\na", "p\n\nb", 1.0),
        (1, "q", "q\n\na", "q\n\nb", 0.0),
        (2, "p", "p\n\nb", "p\n\na", 1.0),
    ]
    assert len(joint.responses) == 4
    assert joint.prompts is found.prompts
    alone = found.with_prompt_ignored()
    assert alone.prompts is None
    with pytest.raises(InputError, match="joint texts need prompts"):
        alone.joined()
    ids = Comparisons.from_columns(user_id=[1], left_id=["a"], right_id=["b"], label=[1], prompt=["p"])
    with pytest.raises(InputError, match="here prompts are of kind 'text', responses of kind 'id'"):
        ids.joined()


def test_records_check_themselves() -> None:
    found = Comparisons.from_columns(**TWO)
    with pytest.raises(InputError, match="'label' has 1 rows, 'user' 2"):
        type(found)(**{**found.__dict__, "label": found.label[:1]})
    with pytest.raises(InputError, match="give both or neither"):
        type(found)(**{**found.__dict__, "prompt": found.user})
    with pytest.raises(InputError, match="kind of items must be"):
        Items(pl.Series(["a"]), None, "video")
    with pytest.raises(InputError, match="1 ids but 2 contents"):
        Items(pl.Series(["a"]), pl.Series(["a", "b"]), "text")
