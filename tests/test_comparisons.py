"""Comparisons: every form of table, every kind of bad input, and what reading, writing and cutting must keep."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pal
from datasets import Dataset
from pal._tables import frames
from pal.comparisons import Comparisons, Items
from pal.errors import InputError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def rows(comparisons: Comparisons) -> list[tuple[Any, ...]]:
    return comparisons.to_frame().rows()


def write_jsonl(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(found) + "\n" for found in objects), encoding="utf-8")
    return path


def test_columns_with_sides() -> None:
    found = Comparisons.from_columns(
        user_id=["u2", "u1", "u2"],
        left=["b", "a", "c"],
        right=["a", "c", "b"],
        label=[1, "right", 0.25],
        prompt=["q", "q", "p"],
        weight=[1, 2.5, 1],
        timestamp=[3, 1, 2],
        split=["train", "test", "train"],
    )
    assert found.user_ids.to_list() == ["u2", "u1"]
    assert found.responses.ids.to_list() == ["b", "a", "c"]
    assert found.responses.kind == "text"
    assert found.prompts is not None
    assert found.prompts.ids.to_list() == ["q", "p"]
    np.testing.assert_array_equal(found.user, [0, 1, 0])
    np.testing.assert_array_equal(found.left, [0, 1, 2])
    np.testing.assert_array_equal(found.right, [1, 2, 0])
    np.testing.assert_array_equal(found.label, np.array([1, 0, 0.25], np.float32))
    assert found.weight is not None
    np.testing.assert_array_equal(found.weight, [1, 2.5, 1])
    assert found.timestamp is not None
    assert found.timestamp.to_list() == [3, 1, 2]
    assert found.assigned is not None
    assert found.assigned.to_list() == ["train", "test", "train"]
    assert found.sided
    assert len(found) == 3
    assert found.n_users == 2
    np.testing.assert_array_equal(found.user_counts(), [2, 1])
    for name in ("user", "left", "right", "prompt"):
        assert getattr(found, name).dtype == np.int32
    for name in ("label", "weight"):
        assert getattr(found, name).dtype == np.float32
    assert repr(found) == "Comparisons(3 rows, 2 users, 3 responses, 2 prompts)"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["left", " Right ", "TIE"], [1, 0, 0.5]),
        ([True, False, True], [1, 0, 1]),
        (["1", "0", "0.5"], [1, 0, 0.5]),
        ([1, 0.5, True], [1, 0.5, 1]),
        (np.array([1, 0, 1], dtype=np.int8), [1, 0, 1]),
        (pl.Series(["left", "tie", "left"], dtype=pl.Categorical), [1, 0.5, 1]),
    ],
)
def test_labels(labels: Any, expected: list[float]) -> None:
    found = Comparisons.from_columns(user_id=["u"] * 3, left=["a"] * 3, right=["b"] * 3, label=labels)
    np.testing.assert_array_equal(found.label, expected)


def test_trl_standard_with_prompt(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", {"user_id": 7, "prompt": "Sky?", "chosen": "Blue.", "rejected": "Red."})
    found = Comparisons.read(path)
    assert rows(found) == [(7, "Sky?", "Blue.", "Red.")]
    assert found.user_ids.dtype == pl.Int64
    assert not found.sided
    np.testing.assert_array_equal(found.label, [1])


def test_trl_standard_without_prompt_keeps_whole_texts(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", {"user_id": "u", "chosen": "It is blue.", "rejected": "It is bleak."})
    found = Comparisons.read(path)
    assert rows(found) == [("u", "It is blue.", "It is bleak.")]
    assert found.prompts is None


def test_trl_conversational_with_prompt() -> None:
    prompt = [said("system", "Be brief."), said("user", "Sky?")]
    chosen = [said("assistant", "Blue."), said("user", "Why?"), said("assistant", "Air.")]
    dataset = Dataset.from_dict(
        {"user_id": ["u"], "prompt": [prompt], "chosen": [chosen], "rejected": [[said("assistant", "Red.")]]}
    )
    assert rows(Comparisons.from_huggingface(dataset)) == [
        ("u", "system: Be brief.\n\nuser: Sky?", "assistant: Blue.\n\nuser: Why?\n\nassistant: Air.", "Red.")
    ]


@pytest.mark.parametrize("prompt", [{}, {"prompt": "written elsewhere"}])
def test_trl_conversational_without_prompt(prompt: dict[str, str]) -> None:
    """As TRL does: the messages both begin with are the prompt, even where a text prompt is there too."""
    asked = [said("user", "Sky?"), said("assistant", "Which?"), said("user", "Ours.")]
    table = pl.DataFrame(
        [
            {
                "user_id": "u",
                **prompt,
                "chosen": [*asked, said("assistant", "Blue.")],
                "rejected": [*asked, said("x", "Red.")],
            },
            {"user_id": "u", **prompt, "chosen": asked[:2], "rejected": [asked[0], said("x", "No."), said("x", "!")]},
        ]
    )
    assert rows(Comparisons.from_frame(table)) == [
        ("u", "user: Sky?\n\nassistant: Which?\n\nuser: Ours.", "Blue.", "Red."),
        ("u", "Sky?", "Which?", "x: No.\n\nx: !"),
    ]


def test_conversations_that_go_on_keep_a_message_each() -> None:
    both = [said("user", "Sky?"), said("assistant", "Blue.")]
    table = {"user_id": ["u"], "chosen": [both], "rejected": [[*both, said("assistant", "And wide.")]]}
    assert rows(Comparisons.from_columns(**table)) == [
        ("u", "Sky?", "Blue.", "assistant: Blue.\n\nassistant: And wide.")
    ]


def test_conversations_without_anything_shared_have_no_prompt() -> None:
    found = Comparisons.from_columns(user_id=["u"], chosen=[[said("a", "x")]], rejected=[[said("a", "y")]])
    assert rows(found) == [("u", "x", "y")]


@pytest.mark.parametrize("sided", [True, False])
def test_ids(sided: bool) -> None:
    names = ("left_id", "right_id") if sided else ("chosen_id", "rejected_id")
    columns: dict[str, Any] = {"user_id": ["u", "v"], names[0]: [3, 4], names[1]: [4, 5], "prompt_id": ["p", "q"]}
    found = Comparisons.from_columns(**columns, label=[0, 1] if sided else None)
    assert found.responses.kind == "id"
    assert found.responses.contents is None
    assert found.responses.ids.to_list() == ["3", "4", "5"]
    assert found.prompts is not None
    assert found.prompts.kind == "id"
    assert rows(Comparisons.from_frame(found.to_frame())) == rows(found)


def test_ids_with_texts_of_prompts() -> None:
    found = Comparisons.from_columns(user_id=["u"], left_id=["a"], right_id=["b"], label=[1], prompt=["Is it so?"])
    assert found.responses.kind == "id"
    assert found.prompts is not None
    assert found.prompts.kind == "text"


def test_texts_go_before_ids() -> None:
    table = pl.DataFrame(
        {"user_id": ["u"], "chosen": ["x"], "rejected": ["y"], "chosen_id": [1], "rejected_id": [2], "prompt_id": ["p"]}
    )
    found = Comparisons.from_frame(table)
    assert found.responses.kind == "text"
    assert found.prompts is not None
    assert found.prompts.kind == "id"


def test_images_as_bytes(tmp_path: Path) -> None:
    found = Comparisons.from_columns(user_id=["u"], left=[b"one"], right=[b"two"], label=[0], prompt=["a cat"])
    assert found.responses.kind == "image"
    assert all(len(name) == 64 for name in found.responses.ids)
    assert found.responses.contents is not None
    assert found.responses.contents.to_list() == [b"one", b"two"]
    found.write(tmp_path / "t.parquet")
    assert Comparisons.read(tmp_path / "t.parquet").responses.ids.to_list() == found.responses.ids.to_list()
    with pytest.raises(InputError, match=r"t.csv: images given as bytes do not fit into .csv; write to .parquet"):
        found.write(tmp_path / "t.csv")


def test_images_of_a_data_set() -> None:
    image = {"bytes": b"one", "path": None}
    dataset = Dataset.from_dict({"user_id": ["u"], "chosen": [image], "rejected": [{"bytes": b"two", "path": None}]})
    found = Comparisons.from_huggingface(dataset)
    assert found.responses.kind == "image"
    paths = Dataset.from_dict(
        {"user_id": ["u"], "chosen": [{"bytes": None, "path": "a.png"}], "rejected": [{"bytes": None, "path": "b.png"}]}
    )
    assert Comparisons.from_frame(
        paths.to_polars().cast({"chosen": pl.Struct({"bytes": pl.Binary, "path": pl.String})})
    )


def test_images_as_paths_are_found_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "data" / "t.csv"
    path.write_text("user_id,left,right,label\nu,img/a.png,/abs/b.png,1\nu,https://x/c.png,img/a.png,1\n")
    found = Comparisons.read(path, images=True)
    assert found.responses.kind == "image"
    assert found.responses.ids.to_list() == ["img/a.png", "/abs/b.png", "https://x/c.png"]
    assert found.responses.contents is not None
    assert found.responses.contents[0] == str(tmp_path / "data" / "img" / "a.png")
    found.write(tmp_path / "elsewhere" / "t.csv")
    again = Comparisons.read(tmp_path / "elsewhere" / "t.csv", images=True)
    assert again.responses.contents is not None
    assert Path(again.responses.contents[0]).resolve() == tmp_path / "data" / "img" / "a.png"
    assert again.responses.ids.to_list()[1:] == found.responses.ids.to_list()[1:]


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


def test_columns_of_nulls_are_no_columns() -> None:
    found = Comparisons.from_columns(user_id=["a"], chosen=["x"], rejected=["y"], prompt=[None], weight=[None])
    assert found.prompts is None
    assert found.weight is None


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


def test_users_of_ties_are_kept_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"^user 'b' gave nothing but ties: kept, .*") as caught:
        found = Comparisons.from_columns(
            user_id=["a", "b", "b"], left=["x"] * 3, right=["y"] * 3, label=["left", "tie", "tie"]
        )
    assert caught[0].filename == __file__
    assert found.n_users == 2
    with pytest.warns(UserWarning, match=r"^5 users \(0, 1, 2, ...\) gave nothing but ties"):
        Comparisons.from_columns(user_id=range(5), left=["x"] * 5, right=["y"] * 5, label=[0.5] * 5)


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


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Comparisons.from_columns(**TWO)
    path = tmp_path / "t.parquet"
    found.write(path)
    before = path.read_bytes()

    def killed(self: pl.DataFrame, file: Any) -> None:
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


def test_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pal, "Comparisons", Comparisons, raising=False)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)


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
