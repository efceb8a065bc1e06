import pytest

from pal.datasets import from_folder, recognise
from pal.errors import InputError


def test_a_folder_is_recognised_and_read(polis_folder):
    folder = polis_folder([("4", ["1", "-1", "1"])])
    assert recognise(folder) == "polis"
    assert len(from_folder(folder, min_votes=3)) == 3
    assert len(from_folder(str(folder), min_votes=1, passes="tie")) == 3


def test_real_folders(shared):
    assert recognise(shared / "persona") == "persona"
    assert recognise(shared / "ukpconvarg") == "ukpconvarg"
    assert recognise(shared / "polis" / "brexit-consensus") == "polis"
    assert from_folder(shared / "persona", users_per_persona=2, answers=3).n_users == 6


def test_nothing_is_recognised(tmp_path):
    assert recognise(tmp_path) is None
    with pytest.raises(InputError) as caught:
        from_folder(tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    for part in (str(tmp_path), "comments.csv", "interest-in-art.jsonl", "judgements.parquet", "A table"):
        assert part in said


def test_half_a_data_set(polis_folder):
    folder = polis_folder([("4", ["1", "-1", "1"])])
    (folder / "comments.csv").unlink()
    with pytest.raises(InputError, match=r"looks like a Polis export, but comments\.csv is missing"):
        from_folder(folder)


def test_a_folder_of_data_sets(polis_folder):
    folder = polis_folder([("4", ["1", "-1", "1"])])
    with pytest.raises(InputError, match=r"holds 1 data set \(polis\); name one"):
        from_folder(folder.parent)


def test_unknown_options_are_refused(polis_folder):
    folder = polis_folder([("4", ["1", "-1", "1"])])
    with pytest.raises(InputError, match="no option 'answers'; there are min_votes, passes"):
        from_folder(folder, answers=3)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        from_folder(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; name the folder"):
        from_folder(tmp_path / "file")
