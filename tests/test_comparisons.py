"""Comparisons: every form of comparison, response and prompt that can be given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from datasets import Dataset
from pal.comparisons import Comparisons
from pal.errors import InputError


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


def test_columns_of_nulls_are_no_columns() -> None:
    found = Comparisons.from_columns(user_id=["a"], chosen=["x"], rejected=["y"], prompt=[None], weight=[None])
    assert found.prompts is None
    assert found.weight is None


def test_users_of_ties_are_kept_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"^user 'b' gave nothing but ties: kept, .*") as caught:
        found = Comparisons.from_columns(
            user_id=["a", "b", "b"], left=["x"] * 3, right=["y"] * 3, label=["left", "tie", "tie"]
        )
    assert caught[0].filename == __file__
    assert found.n_users == 2
    with pytest.warns(UserWarning, match=r"^5 users \(0, 1, 2, ...\) gave nothing but ties"):
        Comparisons.from_columns(user_id=range(5), left=["x"] * 5, right=["y"] * 5, label=[0.5] * 5)
