"""Every kind of table that cannot be used, and the one line that says so."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from datasets import Dataset, DatasetDict
from pal.comparisons import Comparisons
from pal.errors import InputError

TWO: dict[str, Any] = {"user_id": ["a", "b"], "left": ["x", "y"], "right": ["y", "z"], "label": [1, 0]}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]

BAD_CSV = {
    "missing user": (
        "user,left,right,label\na,x,y,1\n",
        "no column 'user_id' among user, left, right, label; did you mean 'user'? rename it to 'user_id'",
    ),
    "missing label": ("user_id,left,right\na,x,y\n", "no column 'label' among user_id, left, right; add 'label'"),
    "misspelt": (
        "user_id,left,rigth,label\na,x,y,1\n",
        "no column 'right' among user_id, left, rigth, label; did you mean 'rigth'? rename it to 'right'",
    ),
    "no responses": (
        "user_id,text\na,x\n",
        "no column 'chosen' among user_id, text; a table needs user_id and either chosen and rejected or left, ",
    ),
    "semicolons": (
        "user_id;left;right;label\na;x;y;1\n",
        "the columns seem to be separated by ';': separate them by commas",
    ),
    "both forms": (
        "user_id,chosen,rejected,left,right\na,x,y,x,y\n",
        "has both 'chosen', 'rejected' and 'left', 'right': keep one of the two pairs of columns",
    ),
    "half of another form": (
        "user_id,chosen,rejected,left\na,x,y,x\n",
        "has 'chosen', 'rejected' and 'left': drop 'left', or rename it",
    ),
    "label of chosen": (
        "user_id,chosen,rejected,label\na,x,y,1\n",
        "or, if it says which is preferred, rename 'chosen' to 'left' and 'rejected' to 'right'",
    ),
    "column twice": (
        "user_id,left,left,right,label\na,x,x,y,1\n",
        "has two columns 'left': rename or drop one of them",
    ),
    "no user": (
        "user_id,chosen,rejected\na,x,y\n,x,y\n",
        "row 2 (line 3), column 'user_id': is empty; every row needs the id of who answered",
    ),
    "quoted empty user": ('user_id,chosen,rejected\n"",x,y\n', "row 1 (line 2), column 'user_id': is empty"),
    "no response": (
        'user_id,chosen,rejected\na,"x\ny",z\nb,x,\n',
        "row 2 (line 4), column 'rejected': is empty; drop the row, or write what was shown",
    ),
    "equal": (
        "user_id,chosen,rejected\na,x,y\nb,z,z\n",
        "row 2 (line 3), column 'rejected': the same as 'chosen', 'z'; a comparison needs two, drop the row",
    ),
    "label too large": (
        "user_id,left,right,label\na,x,y,1\nb,x,y,2\n",
        "row 2 (line 3), column 'label': '2' is outside 0 to 1; write left, right or tie, or a number from 0 ",
    ),
    "label of two signs": (
        "user_id,left,right,label\na,x,y,1\n\nb,x,y,-1\n",
        "row 2 (line 4), column 'label': '-1' is outside 0 to 1; if -1 means right, write 0",
    ),
    "label no word": (
        "user_id,left,right,label\na,x,y,first\n",
        "row 1 (line 2), column 'label': 'first' is not a label; write left, right or tie",
    ),
    "label nan": ("user_id,left,right,label\na,x,y,nan\n", "row 1 (line 2), column 'label': 'nan' is not a label"),
    "label empty": ("user_id,left,right,label\na,x,y,1\na,x,z,\n", "row 2 (line 3), column 'label': is empty"),
    "weight zero": (
        "user_id,chosen,rejected,weight\na,x,y,0\n",
        "row 1 (line 2), column 'weight': '0' cannot weigh; a weight is a positive number; drop the row if ",
    ),
    "weight nan": ("user_id,chosen,rejected,weight\na,x,y,nan\n", "column 'weight': 'nan' cannot weigh"),
    "weight infinite": ("user_id,chosen,rejected,weight\na,x,y,1e39\n", "column 'weight': '1e39' cannot weigh"),
    "weight a word": ("user_id,chosen,rejected,weight\na,x,y,much\n", "column 'weight': 'much' cannot weigh"),
    "part": (
        "user_id,chosen,rejected,split\na,x,y,dev\n",
        "column 'split': 'dev' is not a part; write train, validation, test or unseen",
    ),
    "prompt gap": ("user_id,prompt,chosen,rejected\na,p,x,y\na,,x,y\n", "row 2 (line 3), column 'prompt': is empty"),
    "only a header": ("user_id,chosen,rejected\n", "has no rows; a table needs at least one comparison"),
    "empty file": ("", "is empty; a table needs at least one comparison"),
    "too many values": (
        "user_id,chosen,rejected\na,x,y\nb,x,y, z\n",
        "row 2 (line 3): 4 values, but 3 columns in the header; quote values that hold commas",
    ),
    "open quote": (
        'user_id,chosen,rejected\na,x,y\nb,"x,y\nc,x,y\n',
        "line 3: quotes do not match (unexpected end of data); write a quote inside a value twice",
    ),
    "latin-1": (b"user_id,chosen,rejected\na,x,y\nb,caf\xe9,y\n", "line 3: byte 0xe9 is not UTF-8; save as UTF-8"),
    "utf-16": ("user_id,chosen,rejected\na,x,y\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8; save as UTF-8"),
}

GOOD = '{"user_id": 1, "chosen": "x", "rejected": "y"}\n'
BAD_JSONL = {
    "1 and '1'": (
        GOOD + '{"user_id": "1", "chosen": "x", "rejected": "y"}\n',
        "row 2 (line 2), column 'user_id': '1' is a string, but line 1 holds an integer, 1; use one type",
    ),
    "'1' and 1": (
        '{"user_id": "1", "chosen": "x", "rejected": "y"}\n\n' + GOOD,
        "row 2 (line 3), column 'user_id': 1 is an integer, but line 1 holds a string, '1'; use one type",
    ),
    "id a truth value": (
        GOOD + '{"user_id": true, "chosen": "x", "rejected": "y"}\n',
        "row 2 (line 2), column 'user_id': True is a truth value, but line 1 holds an integer",
    ),
    "id a fraction": (
        '{"user_id": 1.5, "chosen": "x", "rejected": "y"}\n',
        "row 1 (line 1), column 'user_id': 1.5 is not an id; cast ids to integers or strings",
    ),
    "id too large": (
        '{"user_id": 36893488147419103232, "chosen": "x", "rejected": "y"}\n',
        "column 'user_id': 36893488147419103232 does not fit into 64 bits; write such ids as strings",
    ),
    "id null": (
        GOOD + '{"user_id": null, "chosen": "x", "rejected": "y"}\n',
        "row 2 (line 2), column 'user_id': is empty",
    ),
    "all ids null": (
        '{"user_id": null, "chosen": "x", "rejected": "y"}\n',
        "row 1 (line 1), column 'user_id': is empty",
    ),
    "cut at the end": (GOOD + GOOD[:30], "line 2: cut in the middle or not JSON ("),
    "cut inside": (GOOD + GOOD[:30] + "\n" + GOOD, "line 2: cut in the middle or not JSON ("),
    "no object": (GOOD + "[1, 2]\n", "line 2: a JSON object is needed, found [1, 2]"),
    "latin-1": (
        GOOD.encode() + b'{"user_id": 2, "chosen": "caf\xe9", "rejected": "y"}\n',
        "line 2: byte 0xe9 is not UTF-8",
    ),
    "blank": ("\n\n", "has no rows; a table needs at least one comparison"),
    "text and conversation": (
        GOOD + json.dumps({"user_id": 1, "chosen": "z", "rejected": CHAT}),
        "'assistant', ... is a list, but line 1 holds a string, 'y'; use one type",
    ),
    "no content": (
        json.dumps({"user_id": 1, "chosen": [*CHAT, {"role": "c"}], "rejected": CHAT}),
        "row 1 (line 1), column 'chosen': a message lacks its 'role' or 'content' in [",
    ),
    "no message": (
        json.dumps({"user_id": 1, "chosen": [], "rejected": CHAT}),
        "row 1 (line 1), column 'chosen': is empty",
    ),
    "content of parts": (
        json.dumps({"user_id": 1, "chosen": [{"role": "a", "content": [{"type": "text"}]}], "rejected": CHAT}),
        "column 'chosen': a list must hold messages with text as 'role' and 'content', found List(Struct(",
    ),
    "a prompt now and then": (
        json.dumps({"user_id": 1, "chosen": CHAT, "rejected": [CHAT[0], CHAT[0]]})
        + "\n"
        + json.dumps({"user_id": 1, "chosen": CHAT[1:], "rejected": CHAT[:1]}),
        "row 2 (line 2), column 'chosen': does not begin with the same message as 'rejected', unlike the rows ",
    ),
    "the same conversation": (
        json.dumps({"user_id": 1, "chosen": CHAT, "rejected": CHAT}),
        "row 1 (line 1), column 'rejected': the same as 'chosen', 'x'",
    ),
}


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        pytest.param(ending, content, message, id=f"{ending}: {name}")
        for ending, cases in (("csv", BAD_CSV), ("jsonl", BAD_JSONL))
        for name, (content, message) in cases.items()
    ],
)
def test_bad_files(tmp_path: Path, ending: str, content: str | bytes, message: str) -> None:
    path = tmp_path / f"answers.{ending}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        Comparisons.read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text


def test_the_documented_messages_are_those_of_pal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8").split("## What PAL says")[1]
    documented = re.findall(r"\| `(.*)` \|$", section, re.MULTILINE)
    assert len(documented) >= 20
    monkeypatch.chdir(tmp_path)
    said = set()
    cases = [("csv", content) for content, _ in BAD_CSV.values()] + [
        ("jsonl", content) for content, _ in BAD_JSONL.values()
    ]
    for ending, content in [*cases, ("txt", "")]:
        path = Path(f"answers.{ending}")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(InputError) as caught:
            Comparisons.read(path)
        said.add(str(caught.value))
    with pytest.raises(InputError) as caught:
        Comparisons.read("missing.csv")
    said.add(str(caught.value))
    assert [message for message in documented if message not in said] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.csv", "no such file; check the path"),
        ("answers.txt", "unknown ending '.txt'; save the table as .parquet, .jsonl or .csv"),
        ("answers.json", "save the table as .parquet, .jsonl or .csv; .jsonl is one JSON object a line"),
        ("answers.parquet", "is damaged, or no parquet file"),
        ("cut.parquet", "is damaged, or no parquet file"),
        ("folder", "is a folder; name the file, or a list of files, that hold the comparisons"),
    ],
)
def test_files_that_do_not_open(tmp_path: Path, name: str, message: str) -> None:
    for other in ("answers.txt", "answers.json", "answers.parquet"):
        (tmp_path / other).write_text("neither table nor text")
    (tmp_path / "folder").mkdir()
    pl.DataFrame(TWO).write_parquet(tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    with pytest.raises(InputError) as caught:
        Comparisons.read(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_different_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,chosen,rejected\n1,x,y\n")
    (tmp_path / "b.csv").write_text("user_id,left,right,label\n1,x,y,1\n")
    (tmp_path / "c.jsonl").write_text(GOOD)
    with pytest.raises(InputError, match=r"differ in their columns .* must have one form"):
        Comparisons.read([tmp_path / "a.csv", tmp_path / "b.csv"])
    with pytest.raises(InputError, match=r"differ in their ids of users \(strings; integers\)"):
        Comparisons.read([tmp_path / "a.csv", tmp_path / "c.jsonl"])
    with pytest.raises(InputError, match="no files to read"):
        Comparisons.read([])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1, "1"]}, "row 2, column 'user_id': '1' is a string, but row 1 holds an integer, 1; use one"),
        ({"user_id": np.array([1, "1"], dtype=object)}, "'1' is a string, but row 1 holds an integer"),
        ({"user_id": [1, True]}, "column 'user_id': True is a truth value, but row 1 holds an integer"),
        ({"user_id": ["a", ""]}, "row 2, column 'user_id': is empty"),
        ({"user_id": ["a", None]}, "row 2, column 'user_id': is empty"),
        ({"user_id": pd.Series([1, None])}, "row 2, column 'user_id': is empty"),
        ({"user_id": [1.0, 2.0]}, "row 1, column 'user_id': 1.0 is not an id; cast ids to integers or strings"),
        ({"user_id": [True, False]}, "column 'user_id': ids must be strings or integers, found Boolean; cast"),
        ({"user_id": ["a", "\ud800"]}, "column 'user_id': the values do not form a column"),
        ({"user_id": [object(), object()]}, "column 'user_id': values of type object cannot be used"),
        ({"user_id": "ab"}, "column 'user_id': a sequence with one value a row is needed, found 'ab'"),
        ({"user_id": None}, "no column 'user_id' among left, right, label; add 'user_id'"),
        ({"left": ["x"]}, "columns must have one length, found 'user_id' 2, 'left' 1, 'right' 2, 'label' 2"),
        ({"left": [1, 2]}, "images are needed, found Int64; numbers that are ids belong into 'left_id'"),
        ({"left": [b"1", b"2"]}, "'left' holds images, 'right' texts: both must be of one kind"),
        ({"label": [1, [0]]}, "row 2, column 'label': '[0]' is not a label"),
        ({"label": [[1], [0]]}, "row 1, column 'label': '[1]' is not a label"),
        ({"label": np.array([0.5, np.nan])}, "row 2, column 'label': nan is not a label"),
        ({"label": np.ones((2, 2))}, "column 'label': one value a row is needed, found shape (2, 2)"),
        ({"prompt": [3, 4]}, "column 'prompt': text, conversations or images are needed, found Int64"),
        ({"prompt_id": [0.5, 1.0]}, "column 'prompt_id': ids must be strings or integers, found Float64"),
        ({"split": ["train", None]}, "row 2, column 'split': None is not a part"),
    ],
)
def test_bad_columns(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Comparisons.from_columns(**{**TWO, **columns})
    assert str(caught.value).startswith("the table")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_containers() -> None:
    with pytest.raises(InputError, match="a polars or pandas frame is needed, found list; for lists use from_columns"):
        Comparisons.from_frame([1, 2])
    data = Dataset.from_dict(TWO)
    with pytest.raises(InputError, match=r"the data set has splits \(train, test\): choose one, as dataset\['train'\]"):
        Comparisons.from_huggingface(DatasetDict({"train": data, "test": data}))
    with pytest.raises(InputError, match="found IterableDataset; load it without streaming=True"):
        Comparisons.from_huggingface(data.to_iterable_dataset())
    with pytest.raises(InputError, match="has two columns 'left'"):
        Comparisons.from_frame(pd.DataFrame([[1, 2]], columns=["left", "left"]))
