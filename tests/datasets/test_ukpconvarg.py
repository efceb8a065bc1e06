import polars as pl
import pytest

from pal.datasets import ukpconvarg
from pal.errors import InputError

ARGUMENTS = {"id": ["a1", "a2", "a3", "a4"], "text": ["Owls hunt mice.", "Owls are loud.", "Owls hunt mice.", "Why?"]}
JUDGEMENTS = {
    "user_id": ["w1", "w1", "w2", "w1", "w3"],
    "prompt": ["more-owls-_yes-please"] * 5,
    "left_id": ["a1", "a2", "a1", "a1", "a4"],
    "right_id": ["a2", "a3", "a2", "a3", "a2"],
    "label": ["left", "tie", "right", "left", "left"],
}


@pytest.fixture
def folder(tmp_path):
    def write(judgements=JUDGEMENTS, arguments=ARGUMENTS):
        pl.DataFrame(judgements).write_parquet(tmp_path / "judgements.parquet")
        pl.DataFrame(arguments).write_parquet(tmp_path / "arguments.parquet")
        return tmp_path

    return write


def test_identical_texts_are_one_argument(folder):
    with pytest.warns(UserWarning, match="1 judgements between identical texts are left out"):
        comparisons = ukpconvarg(folder())
    frame = comparisons.to_frame()
    assert frame["user_id"].to_list() == ["w1", "w1", "w2", "w3"]
    assert frame["left"].to_list() == ["Owls hunt mice.", "Owls are loud.", "Owls hunt mice.", "Why?"]
    assert frame["right"].to_list() == ["Owls are loud.", "Owls hunt mice.", "Owls are loud.", "Owls are loud."]
    assert frame["label"].to_list() == [1.0, 0.5, 0.0, 1.0]
    assert len(comparisons.responses) == 3
    assert comparisons.prompts.ids.to_list() == ["more owls: yes please"]


def test_answers_are_counted_with_those_left_out(folder):
    with pytest.warns(UserWarning, match="identical"):
        comparisons = ukpconvarg(folder(), min_answers=3)
    assert comparisons.user_ids.to_list() == ["w1"]
    assert len(comparisons) == 2
    with pytest.raises(InputError, match="nobody has 4 judgements; lower min_answers"):
        ukpconvarg(folder(), min_answers=4)


def test_only_ties_are_said(folder):
    judgements = {**JUDGEMENTS, "label": ["tie"] * 5, "right_id": ["a2", "a3", "a2", "a2", "a2"]}
    with pytest.warns(UserWarning, match="3 workers gave nothing but ties"):
        assert len(ukpconvarg(folder(judgements))) == 5


def test_prompts_in_words_are_kept(folder):
    judgements = {**JUDGEMENTS, "prompt": ["Well-fed owls_no"] * 5, "right_id": ["a2", "a3", "a2", "a2", "a2"]}
    assert ukpconvarg(folder(judgements)).prompts.ids.to_list() == ["Well-fed owls_no"]


@pytest.mark.parametrize(
    ("judgements", "arguments", "said"),
    [
        ({}, {"id": ["a1"], "text": ["Owls."]}, r"speaks of argument 'a2', which has no text in arguments\.parquet"),
        ({}, {"id": ["a1", "a1"], "text": ["Owls.", "Bats."]}, "'a1' stands there more than once"),
        ({}, {"id": ["a1"]}, "has no column 'text'"),
        ({"label": ["left", "tie", "right", "left", "best"]}, None, r"judgements\.parquet, row 5, column 'label'"),
        ({"user_id": ["w1", None, "w2", "w1", "w3"]}, None, "row 2, column 'user_id'"),
    ],
)
def test_bad_tables_are_refused(folder, judgements, arguments, said):
    with pytest.raises(InputError, match=said):
        ukpconvarg(folder({**JUDGEMENTS, **judgements}, arguments or ARGUMENTS))


def test_missing_and_damaged_tables_are_refused(folder):
    path = folder()
    (path / "arguments.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"arguments\.parquet is damaged"):
        ukpconvarg(path)
    (path / "arguments.parquet").unlink()
    with pytest.raises(InputError, match=r"arguments\.parquet: no such file"):
        ukpconvarg(path)


def test_real_judgements(shared):
    with (
        pytest.warns(UserWarning, match="75 judgements between identical texts"),
        pytest.warns(UserWarning, match="14 workers gave nothing but ties"),
    ):
        every = ukpconvarg(shared / "ukpconvarg")
    assert (every.n_users, len(every), len(every.responses), len(every.prompts)) == (3815, 84_370, 1038, 32)
    with pytest.warns(UserWarning, match="49 judgements between identical texts"):
        busy = ukpconvarg(shared / "ukpconvarg", min_answers=50)
    assert (busy.n_users, len(busy)) == (234, 56_026)
