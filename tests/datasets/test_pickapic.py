import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import pal
from pal.datasets import from_folder, pickapic, recognise
from pal.errors import InputError
from pal.paper import _pickapic, summaries

DOCUMENTS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))


def jpeg(grey=0):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(out, "JPEG")
    return out.getvalue()


def row(user=7, left="a", right="b", label=1.0, caption="a red flag", has_label=True, pictures=True, **more):
    made = {
        "are_different": left != right,
        "best_image_uid": "",
        "caption": caption,
        "created_at": "2023-04-01",
        "has_label": has_label,
        "image_0_uid": left,
        "image_1_uid": right,
        "label_0": label,
        "label_1": None if label is None else 1 - label,
        "user_id": user,
    }
    if pictures:
        made |= {"jpg_0": jpeg(ord(left[0])), "jpg_1": jpeg(ord(right[0]))}
    return {**made, **more}


@pytest.fixture
def folder(tmp_path):
    """Writes splits as `hf download` leaves them; a list of lists of rows is several files."""

    def write(**splits):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split, files in splits.items():
            files = files if isinstance(files[0], list) else [files]
            for number, rows in enumerate(files):
                name = f"{split}-{number:05d}-of-{len(files):05d}-33ead111845fc9c4.parquet"
                pl.DataFrame(rows).write_parquet(tmp_path / "data" / name)
        return tmp_path

    return write


def test_captions_are_prompts_and_pictures_are_found_by_uid(folder):
    source = folder(train=[row(), row(user=8, left="c", label=0.0, caption="a blue flag")])
    table = pickapic(source, "train")
    assert table.to_frame().to_dict(as_series=False) == {
        "user_id": [7, 8],
        "prompt": ["a red flag", "a blue flag"],
        "left_id": ["a", "c"],
        "right_id": ["b", "b"],
        "label": [1.0, 0.0],
    }
    assert (table.responses.kind, table.prompts.kind, table.sided) == ("id", "text", True)


def test_ties_stay_and_people_of_ties_alone_too(folder):
    table = pickapic(folder(train=[row(label=0.5), row(left="c", label=0.5)]))
    assert table.label.tolist() == [0.5, 0.5]


def test_what_is_left_out_is_counted(folder):
    rows = [
        row(),
        row(has_label=False, label=None),
        row(has_label=False, label=0.0, label_1=0.0),
        row(right="a"),
        row(caption=""),
        row(user=None),
    ]
    with pytest.warns(UserWarning, match="left out 5 of 6 rows: 2 without a label, 2 without a user") as said:
        assert len(pickapic(folder(train=rows))) == 1
    assert "1 of a picture beside itself" in str(said[0].message)
    with pytest.raises(InputError, match="none of 1 rows can be used: 1 without a label"):
        pickapic(folder(test=[row(has_label=False)]), "test")


def test_several_files_are_one_split_in_order(folder):
    files = [[row(user=number, left=f"x{number}")] for number in range(3)]
    table = pickapic(folder(train=files), "train")
    assert table.user_ids.to_list() == [0, 1, 2]
    assert table.assigned is None


def test_all_splits_together_are_assigned(folder):
    source = folder(train=[row(), row(left="c")], validation_unique=[row(left="d")], test=[row(left="e")])
    folder(test_unique=[row(left="f")])
    table = pickapic(source)
    assert table.assigned.to_list() == ["train", "train", "validation", "test"]  # the whole test, where it is there
    parts = table.split(by="assigned")
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (2, 1, 1)
    assert pickapic(source, "test_unique").responses.ids.to_list() == ["f", "b"]


@pytest.mark.parametrize("names", [("train.parquet", "test.parquet"), ("default/train/0000.parquet", "test/0.parquet")])
def test_other_layouts(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame([row()]).write_parquet(tmp_path / name)
    hidden = tmp_path / ".cache" / "huggingface"
    hidden.mkdir(parents=True)
    (hidden / "train.parquet").write_bytes(b"half")
    assert pickapic(tmp_path).assigned.to_list() == ["train", "test"]


def test_files_that_are_not_there_are_said(folder):
    source = folder(train=[[row()], [row(left="c")]])
    next((source / "data").glob("train-00001*")).unlink()
    with pytest.warns(UserWarning, match="1 of the 2 files of split 'train' are here"):
        assert len(pickapic(source)) == 1


def test_one_file_and_rows_and_data_sets(folder):
    datasets = pytest.importorskip("datasets")
    rows = [row(), row(left="c", label=0.5)]
    (path,) = folder(train=rows).glob("data/*")
    wanted = pickapic(path).to_frame()
    made = datasets.Dataset.from_list(rows)
    for source in (rows, iter(rows), made, made.to_iterable_dataset()):
        assert pickapic(source).to_frame().equals(wanted)
    both = datasets.DatasetDict(train=made, test_unique=made)
    assert pickapic(both, "train").to_frame().equals(wanted)
    assert pickapic(both).assigned.to_list() == ["train", "train", "test", "test"]


def test_pictures_are_read_once_each(folder):
    table = pickapic(folder(train=[[row(), row(right="c")], [row(left="c", right="b")]]), images=True)
    assert table.responses.kind == "image"
    assert dict(zip(table.responses.ids, table.responses.contents, strict=True)) == {
        name: jpeg(ord(name)) for name in "abc"
    }


def test_pictures_are_not_read_unless_asked(folder):
    damaged = folder(train=[row(jpg_0=b"no picture")])
    assert len(pickapic(damaged)) == 1
    assert len(pickapic(folder(test=[row(pictures=False)]), "test")) == 1  # pickapic_v1_no_images


@pytest.mark.parametrize("bad", [b"no picture", b"", None, jpeg()[:-90]])
def test_a_damaged_picture_is_named(folder, bad):
    pictures = pl.Series([jpeg(1), bad], dtype=pl.Binary)
    frame = pl.DataFrame([row(left="d", right="c"), row()]).with_columns(jpg_1=pictures)
    path = folder(train=[row()]) / "data" / "test-00000-of-00001.parquet"
    frame.write_parquet(path)
    with pytest.raises(InputError, match=r"test-00000-of-00001\.parquet, row 2, column 'jpg_1': no picture") as said:
        pickapic(path.parents[1], "test", images=True)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("column", ["user_id", "caption", "image_1_uid", "label_1", "has_label", "jpg_0"])
def test_a_missing_column_is_named(folder, column):
    made = row()
    del made[column]
    with pytest.raises(InputError, match=f"train-00000-of-00001-33.*parquet has no column '{column}'") as said:
        pickapic(folder(train=[made]), images=True)
    assert "\n" not in str(said.value)
    with pytest.raises(InputError, match=f"no column '{column}'"):
        pickapic([made], images=True)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (0.5, 0.0), (None, None), (2.0, -1.0)])
def test_labels_that_say_nothing_are_named(folder, first, second):
    rows = [row(), row(label_0=first, label_1=second)]
    with pytest.raises(InputError, match=r"row 2, column 'label_0': found .* labels must be"):
        pickapic(folder(train=rows))


def test_rows_are_counted_through_a_file_read_in_pieces(folder, monkeypatch):
    monkeypatch.setattr(sys.modules["pal.datasets.pickapic"], "_ROWS", 2)
    rows = [row(left=f"x{number}") for number in range(7)]
    assert len(pickapic(folder(train=rows))) == 7
    rows[6]["label_1"] = 1.0
    with pytest.raises(InputError, match="row 7, column 'label_0'"):
        pickapic(folder(train=rows))


def test_what_cannot_be_opened(folder, tmp_path):
    for bad, said in (
        (tmp_path / "nowhere", "no such file or folder"),
        (3, "is needed, found int"),
        ([3], "rows must be mappings"),
        ([], "has no rows"),
    ):
        with pytest.raises(InputError, match=said):
            pickapic(bad)
    with pytest.raises(InputError, match=r"no \.parquet files"):
        pickapic(tmp_path)
    source = folder(train=[row()])
    with pytest.raises(InputError, match="no split 'valid' among train"):
        pickapic(source, "valid")
    (path,) = source.glob("data/*")
    with pytest.raises(InputError, match="is one split"):
        pickapic(path, "train")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged") as error:
        pickapic(source)
    assert "\n" not in str(error.value)


def test_own_embeddings_are_joined_by_id_in_any_order(folder):
    rows = [row(), row(left="c", label=0.0, caption="a blue flag"), row(left="c", right="a", label=0.5)]
    table = pickapic(folder(train=rows))
    vectors = dict(zip("abc", np.eye(3, dtype=np.float32), strict=True))
    captions = {"a red flag": [1.0, 0.0, 0.0], "a blue flag": [0.0, 0.0, 1.0]}
    images = (list("cab"), np.array([vectors[name] for name in "cab"]))
    texts = pl.DataFrame({"id": list(captions)[::-1], "embedding": list(captions.values())[::-1]})
    data = pal.embed(table, embeddings=images, prompt_embeddings=texts)
    assert all(np.array_equal(data.responses[place], vectors[name]) for place, name in enumerate(table.responses.ids))
    assert all(np.array_equal(data.prompts[place], captions[name]) for place, name in enumerate(table.prompts.ids))


def test_a_folder_is_recognised(folder):
    source = folder(train=[row(), row(left="c")], test_unique=[row(left="d")])
    assert recognise(source) == "pickapic"
    assert len(from_folder(source)) == 3
    assert len(from_folder(source, split="train")) == 2
    with pytest.raises(InputError, match="no option 'min_votes'; there are split, images"):
        from_folder(source, min_votes=3)


def test_the_layout_that_hf_download_leaves(tmp_path):
    local = pytest.importorskip("huggingface_hub._local_folder")
    paths = local.get_local_download_paths(tmp_path, "data/test_unique-00000-of-00001-33ead111845fc9c4.parquet")
    pl.DataFrame([row()]).write_parquet(paths.file_path)
    paths.metadata_path.write_text("abc\n")
    paths.incomplete_path("0").with_suffix(".parquet").write_bytes(b"half")
    assert recognise(tmp_path) == "pickapic"
    assert len(pickapic(tmp_path)) == 1


def test_the_documented_downloads_are_ones_that_hf_takes():
    command = Path(sys.executable).with_name("hf")
    if not command.exists():
        pytest.skip("huggingface_hub has no command here")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    shown = subprocess.run(
        [command, "download", "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    texts = [_pickapic.__doc__, _pickapic.HOW, summaries.__doc__, *(path.read_text() for path in DOCUMENTS)]
    lines = [line for text in texts for line in re.findall(r"hf download (?:[^`\n]|\\\n)*", text)]
    options = {option for line in lines for option in re.findall(r"(?<=\s)--[a-z-]+", line)}
    assert len(lines) >= 4
    assert {"--repo-type", "--local-dir"} <= options
    assert all(re.search(rf"{option}\b", shown) for option in options)
