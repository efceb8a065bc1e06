"""Tables 1 and 2: zero-shot rewards by hand, the leakage split, the whole path on generated files, the paper's rows."""

import json
import math

import numpy as np
import polars as pl
import pytest

from pal.comparisons import Comparisons
from pal.errors import InputError
from pal.paper import _pickapic, _pickapic_generated, _runner, table_1, table_2
from pal.paper._pickapic import Data, leaks
from pal.paper._zero_shot import (
    best_threshold,
    cosine_margin,
    probability_of,
    tie_accuracy,
    zero_shot_accuracy,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    _pickapic_generated.write(folder)
    return folder


def test_cosines_by_hand():
    prompts = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    left = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    right = np.array([[0.0, 1.0], [4.0, 0.0], [0.0, -3.0]])
    margin = cosine_margin(prompts, left, right)
    assert margin == pytest.approx([1 - 0, 0, math.sqrt(0.5) + 1])
    assert cosine_margin(10 * prompts, left / 7, right) == pytest.approx(margin)  # lengths say nothing
    assert cosine_margin(prompts, right, left) == pytest.approx(-margin)
    assert cosine_margin(prompts.astype(np.float16), left, right) == pytest.approx(margin)
    scores = 100 * np.array([0.31, 0.3])
    softmax = np.exp(scores[0]) / np.exp(scores).sum()
    assert probability_of(np.array([0.31 - 0.3]))[0] == pytest.approx(softmax)
    assert probability_of(np.array([-2.0, 0.0, 2.0])).tolist() == pytest.approx([0, 0.5, 1])


def test_cosines_refuse_what_has_no_direction():
    ones = np.ones((2, 3))
    with pytest.raises(InputError, match=r"one shape \(n, D\).*\(2, 3\), \(2, 4\)"):
        cosine_margin(ones, np.ones((2, 4)), ones)
    with pytest.raises(InputError, match="left embedding of row 2 is all zeros"):
        cosine_margin(ones, ones * [[1], [0]], ones)


def test_accuracies_by_hand():
    label = np.array([1, 0, 0.5, 1, 0])
    margin = np.array([0.2, 0.3, 0.9, 0.0, -0.1])
    assert zero_shot_accuracy(margin, label) == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert math.isnan(zero_shot_accuracy(margin[2:3], label[2:3]))
    # differences of probabilities: .7, .2, 0, -.56; a tie is predicted up to the threshold
    probability, label = np.array([0.85, 0.6, 0.5, 0.22]), np.array([1, 0.5, 0.5, 1])
    assert tie_accuracy(probability, label, 0.0) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert tie_accuracy(probability, label, 0.3) == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert tie_accuracy(probability, label, 0.6) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert tie_accuracy(probability, label, 1.0) == pytest.approx((0.5 + 1 + 1 + 0.5) / 4)
    assert best_threshold(probability, label) == 0.6
    assert best_threshold(np.array([0.9]), np.array([1.0])) == 0.0  # the first of equals


def pairs(*rows):
    prompts, left, right = zip(*rows, strict=True)
    n = len(rows)
    return Comparisons.from_columns(user_id=["u"] * n, prompt=prompts, left_id=left, right_id=right, label=[1] * n)


def test_what_leaks():
    train = pairs(("p", "a", "b"), ("q", "c", "d"))
    test = pairs(("p", "a", "b"), ("p", "b", "a"), ("q", "a", "b"), ("p", "a", "x"), ("q", "x", "d"), ("p", "x", "y"))
    assert leaks(test, train).tolist() == [True, True, True, True, True, False]
    assert leaks(test, train, by="pair").tolist() == [True, True, False, False, False, False]
    assert leaks(test, train.take([1])).tolist() == [False, False, False, False, True, False]
    with pytest.raises(InputError, match="'image' or 'pair'"):
        leaks(test, train, by="prompt")


def test_generated_files_are_as_the_hub_s(root):
    data = Data(root)
    train, test = data.answers("v1", "train"), data.answers("v2", "test")
    raw = pl.concat([pl.read_parquet(path) for path in sorted((root / "pickapic_v1" / "data").glob("train-*"))])
    assert {"caption", "jpg_0", "label_0", "image_0_uid", "has_label", "user_id"} <= set(raw.columns)
    assert len(train) == raw["has_label"].sum() < raw.height
    assert 0.02 < (train.label == 0.5).mean() < 0.3
    leaked = leaks(test, train)
    assert 50 < leaked.sum() < len(test) - 50
    assert not (leaks(test, train, by="pair") & ~leaked).any()
    clean, seen = test.take(~leaked).compact(), test.take(leaked).compact()
    assert not set(clean.responses.ids) & set(train.responses.ids)
    assert set(seen.responses.ids) & set(train.responses.ids)
    # what v2 trains on is not in what it is tested on
    assert not leaks(test, data.answers("v2", "train")).any()


def test_pictures_of_another_order_have_their_own_vectors(root):
    data = Data(root).embedded("v1", "test", "clip-h14")
    table = pl.read_parquet(root / "pickapic_vectors" / "clip-h14" / "images.parquet")
    wanted = dict(zip(table["id"], table["embedding"].to_list(), strict=True))
    for place, name in enumerate(data.comparisons.responses.ids):
        assert data.responses[place] == pytest.approx(wanted[name], abs=1e-2)


@pytest.mark.parametrize("table", [table_1, table_2])
def test_the_whole_path_on_generated_files(table, tmp_path):
    cells = [cell for cell in table.cells("small", 1) if cell["space"] != "encoders"]
    rows = [{**cell, **result} for cell, result in table.EXPERIMENT.run(cells)]
    assert sorted(map(str, cells)) == sorted(str({name: row[name] for name in cells[0]}) for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [check for check in table.checks(rows) if not check.ok] == []
    lines = table.table(rows)
    assert {line["verdict"] for line in lines} == {"the path, not the data"}
    assert all("generated" in line["model"] for line in lines)
    assert not any(character.isdigit() for line in lines for key in line if "(paper)" in key for character in line[key])
    assert table.figures(rows, tmp_path)[0].exists()


def test_pictures_and_captions_themselves_are_embedded(root):
    data = Data(root).embedded("v1", "test_unique", "encoders")
    assert (data.encoder, data.prompt_encoder) == ("efficientnet-lite0", "all-MiniLM-L6-v2")
    assert data.responses.shape == (len(data.comparisons.responses), 1280)
    (cell,) = (cell for cell in table_1.cells("small", 1) if cell["space"] == "encoders")
    assert (cell["model"], cell["train"], cell["test"]) == ("b", "v1", "v1")


@pytest.mark.parametrize(("table", "count"), [(table_1, 4), (table_2, 5)])
def test_the_papers_rows_and_numbers(table, count, monkeypatch, tmp_path):
    monkeypatch.setattr(_pickapic, "missing", lambda *_: None)
    cells = table.cells("paper", 5)
    assert {cell["settings"] for cell in cells} == {"", "paper"}
    assert {cell["k"] for cell in cells} == {0, 1}
    assert all(cell["source"] == "hub" for cell in cells)
    rows = []
    for cell in cells:
        numbers = table.PUBLISHED[cell["model"], cell["space"], cell["train"]]
        parts = {part: {"accuracy": 0.6, "with_ties": 0.5, "n": 100, "n_ties": 9} for part, _ in table.SHOWN}
        for part, (mean, _) in numbers.items():
            parts[part]["accuracy"] = mean + (cell["seed"] - 2) * 0.001
        rows.append({**cell, "parts": parts})
    lines = table.table(rows)
    assert len(lines) == count
    assert {line["verdict"] for line in lines} <= {"as in the paper"}
    assert all(check.ok for check in table.checks(rows))
    assert table.figures(rows, tmp_path)[0].exists()
    if table is table_1:
        assert [line["test (paper)"] for line in lines] == ["59.23", "71.85", "69.29 ± 0.66", "71.13 ± 0.31"]
        assert lines[3]["test"] == "71.13 ± 0.16"
    else:
        assert lines[2]["trained on"] == "v1"
        assert lines[2]["test, leakage (paper)"] == "79.32 ± 1.68"
    rows[-1]["parts"][table.SHOWN[0][0]]["accuracy"] = 0.1
    assert table.table(rows)[-1]["verdict"].startswith("unlike the paper")


def test_without_the_data_it_says_which_command_brings_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PAL_DATA", str(tmp_path))
    for table, version in ((table_1, "v1"), (table_2, "v1")):
        assert table.cells("paper", 5) == []
        (record,) = _runner.reproduce([table.EXPERIMENT.name], "paper", 1, tmp_path / "out")
        assert f"hf download yuvalkirstain/pickapic_{version}_no_images" in record["skipped"]
        assert not (tmp_path / "out").exists()
        assert table.cells("small", 1)
    (tmp_path / "pickapic_v1").mkdir()
    assert "pickapic_vectors/clip-h14/images.parquet" in str(_pickapic.missing("v1"))
    assert "pickapic_v2" in str(_pickapic.missing("v1", "v2"))


def test_the_real_data_are_found(monkeypatch, root):
    monkeypatch.setenv("PAL_DATA", str(root))
    assert _pickapic.missing("v1", "v2") is None
    cells = [cell for cell in table_1.cells("paper", 1) if cell["model"] == "zero-shot"]
    found = [result["parts"]["test"]["accuracy"] for _, result in table_1.EXPERIMENT.run(cells)]
    assert found == pytest.approx([0.7546, 0.8315], abs=0.02)
