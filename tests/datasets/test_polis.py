import numpy as np
import pytest

from pal.datasets import polis
from pal.errors import InputError

VOTES = [("17", ["1", "-1", "0"]), ("4", ["", "1", "1"]), ("9", ["0", "", "-1"])]


def rows(comparisons):
    frame = comparisons.to_frame()
    return list(frame.select("user_id", "prompt", "label").iter_rows())


def test_a_vote_compares_agree_and_disagree(polis_folder):
    comparisons = polis(polis_folder(VOTES), min_votes=2)
    assert rows(comparisons) == [
        ("17", "Paint the bridge", 1.0),
        ("17", "Close the ferry", 0.0),
        ("4", "Close the ferry", 1.0),
        ("4", "Keep the owls", 1.0),
    ]
    assert comparisons.responses.ids.to_list() == ["Agree", "Disagree"]
    assert comparisons.user_ids.to_list() == ["17", "4"]
    assert (comparisons.left == 0).all()
    assert (comparisons.right == 1).all()
    assert comparisons.sided
    for column in (comparisons.user, comparisons.left, comparisons.prompt):
        assert column.dtype == np.int32


def test_passes_can_be_ties_and_do_not_count(polis_folder):
    comparisons = polis(polis_folder(VOTES), min_votes=2, passes="tie")
    assert rows(comparisons)[:3] == [
        ("17", "Paint the bridge", 1.0),
        ("17", "Close the ferry", 0.0),
        ("17", "Keep the owls", 0.5),
    ]
    assert comparisons.user_ids.to_list() == ["17", "4"]


def test_statements_nobody_kept_voted_on_are_dropped(polis_folder):
    assert polis(polis_folder([("4", ["", "1", "1"])]), min_votes=2).prompts.ids.to_list() == [
        "Close the ferry",
        "Keep the owls",
    ]


def test_identical_statements_are_one(polis_folder):
    folder = polis_folder([("4", ["1", "-1", "1"])], [("0", "Owls"), ("1", "Bats"), ("2", "Owls")])
    with pytest.warns(UserWarning, match="took 1 statement together with an earlier one of the same text"):
        comparisons = polis(folder, min_votes=3)
    assert rows(comparisons) == [("4", "Owls", 1.0), ("4", "Bats", 0.0), ("4", "Owls", 1.0)]
    assert len(comparisons.prompts) == 2


@pytest.mark.parametrize("text", ["", '"  "'])
def test_votes_without_a_text_are_left_out(polis_folder, text):
    folder = polis_folder([("4", ["1", "-1", "1"])], [("0", "Owls"), ("1", text), ("2", "Bats")])
    with pytest.warns(UserWarning, match=r"left out 1 vote on statements that have no text in comments\.csv"):
        comparisons = polis(folder, min_votes=2)
    assert rows(comparisons) == [("4", "Owls", 1.0), ("4", "Bats", 1.0)]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError, match="nobody has 3 votes"):
        polis(folder, min_votes=3)


def test_statements_missing_in_comments_are_left_out(polis_folder):
    folder = polis_folder(VOTES)
    lines = (folder / "comments.csv").read_text().splitlines()
    (folder / "comments.csv").write_text("\n".join(lines[:2]))
    with pytest.warns(UserWarning, match="left out 4 votes"):
        assert rows(polis(folder, min_votes=1)) == [("17", "Paint the bridge", 1.0)]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([("4", ["1", "2", ""])], r"participants-votes\.csv, participant '4', column '1': '2' is not a vote"),
        ([("4", ["1", "yes", ""])], "'yes' is not a vote; votes are 1"),
        ([("4", ["1", "nan", ""])], "'nan' is not a vote"),
        ([("4", ["1", "1", ""]), ("4", ["1", "", ""])], "column 'participant': '4' stands there more than once"),
        ([("", ["1", "1", ""])], "row 1, column 'participant': is empty"),
        ([("4", ["0", "", ""])], "nobody has 10 votes"),
    ],
)
def test_bad_votes_are_refused(polis_folder, votes, said):
    with pytest.raises(InputError, match=said):
        polis(polis_folder(votes))


def test_bad_files_are_refused(polis_folder):
    folder = polis_folder(VOTES)
    comments = folder / "comments.csv"
    whole = comments.read_text()
    for text, said in (
        ("", "is empty"),
        ("a,b\n1,2\n", "has no column 'comment-id', but a, b"),
        ("comment-id,comment-body\n", "has no rows"),
        (whole + "1,Mon,0,7,0,0,1,Again\n", "'0' stands there more than once"),
    ):
        comments.write_text(text)
        with pytest.raises(InputError, match=said):
            polis(folder)
    comments.write_bytes(whole.encode().replace(b"owls", b"\xff\xfe"))
    with pytest.raises(InputError, match="is damaged, or no csv file"):
        polis(folder)
    comments.unlink()
    with pytest.raises(InputError, match=r"comments\.csv: no such file"):
        polis(folder)
    comments.write_text(whole)
    (folder / "participants-votes.csv").write_text("participant,group-id\n1,0\n")
    with pytest.raises(InputError, match="no columns named after comment ids"):
        polis(folder)


def test_bad_arguments_are_refused(polis_folder):
    folder = polis_folder(VOTES)
    for options, said in (
        ({"passes": "keep"}, "passes='keep' is not known: use 'drop' or 'tie'"),
        ({"min_votes": 0}, "min_votes must be a whole number of at least 1, found 0"),
    ):
        with pytest.raises(InputError, match=said):
            polis(folder, **options)
    with pytest.raises(InputError, match="no such folder"):
        polis(folder / "nothing")


@pytest.mark.parametrize(
    ("name", "people", "votes", "statements"),
    [
        ("american-assembly.bowling-green", 1421, 146_941, 848),
        ("scoop-hivemind.taxes", 278, 14_934, 144),
        ("football-concussions", 353, 7_861, 235),
        ("brexit-consensus", 179, 4_527, 50),
    ],
)
def test_real_conversations(shared, name, people, votes, statements):
    comparisons = polis(shared / "polis" / name)
    assert (comparisons.n_users, len(comparisons), len(comparisons.prompts)) == (people, votes, statements)
    assert comparisons.user_counts().min() >= 10
    assert set(np.unique(comparisons.label)) == {0.0, 1.0}
