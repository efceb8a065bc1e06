import json
import time

import numpy as np
import pytest

from pal.datasets import persona
from pal.errors import InputError

TOPICS = ("art", "literature", "math", "music", "science", "sports")


@pytest.fixture
def folder(tmp_path):
    """Six persona files of ten made-up statements."""
    for topic in TOPICS:
        lines = [
            {
                "statement": f"{'I like' if says == ' Yes' else 'I avoid'} {topic}, version {number}",
                "answer_matching_behavior": says,
                "answer_not_matching_behavior": " No" if says == " Yes" else " Yes",
            }
            for number in range(5)
            for says in (" Yes", " No")
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        (tmp_path / f"interest-in-{topic}.jsonl").write_text(text + "\n")
    return tmp_path


def test_people_say_yes_to_their_persona_only(folder):
    comparisons = persona(folder, n_personas=3, users_per_persona=4, answers=20)
    assert len(comparisons) == 3 * 4 * 20
    assert comparisons.user_ids.to_list()[:5] == [
        "art-00000",
        "art-00001",
        "art-00002",
        "art-00003",
        "literature-00000",
    ]
    assert comparisons.responses.ids.to_list() == ["Yes", "No"]
    frame = comparisons.to_frame()
    for user, statement, label in frame.select("user_id", "prompt", "label").iter_rows():
        topic = user.split("-")[0]
        assert label == float(statement.startswith(f"I like {topic},")), (user, statement)


def test_statements_are_drawn_evenly_without_repeats(folder):
    comparisons = persona(folder, n_personas=2, users_per_persona=2000, answers=15)
    table = comparisons.prompt.reshape(-1, 15)
    assert (np.diff(np.sort(table, axis=1), axis=1) > 0).all()
    counts = np.bincount(comparisons.prompt)
    assert len(counts) == 20
    assert abs(counts / counts.mean() - 1).max() < 0.05
    first = np.bincount(table[:, 0])
    assert abs(first / first.mean() - 1).max() < 0.35


def test_whole_pool_then_with_repeats(folder):
    whole = persona(folder, n_personas=2, users_per_persona=3, answers=20)
    assert (np.sort(whole.prompt.reshape(-1, 20), axis=1) == np.arange(20)).all()
    more = persona(folder, n_personas=2, users_per_persona=3, answers=50)
    assert (more.user_counts() == 50).all()


def test_pool_of_all_personas(folder):
    comparisons = persona(folder, n_personas=2, users_per_persona=50, answers=60, statements="all")
    assert len(comparisons.prompts) == 60
    assert comparisons.label.mean() == pytest.approx(5 / 60)
    assert comparisons.n_users == 100


def test_tables_hold_only_what_was_asked(folder):
    comparisons = persona(folder, n_personas=6, users_per_persona=1, answers=2)
    assert len(comparisons.prompts) == len(np.unique(comparisons.prompt)) <= 12


def test_seeds(folder):
    one, same, other = (persona(folder, users_per_persona=5, answers=10, seed=seed) for seed in (1, 1, 2))
    assert (one.prompt == same.prompt).all()
    assert not (one.prompt == other.prompt).all()


def test_named_personas_and_a_statement_of_two(folder):
    shared_line = {"statement": "I like music, version 0", "answer_matching_behavior": " Yes"}
    (folder / "calm.jsonl").write_text(json.dumps(shared_line) + "\n")
    comparisons = persona(folder, personas=["calm", "interest-in-music"], users_per_persona=1, answers=10)
    assert comparisons.user_ids.to_list() == ["calm-00000", "music-00000"]
    assert len(comparisons.prompts) == 10
    assert comparisons.label[comparisons.user == 0].sum() == 1
    assert comparisons.label[comparisons.user == 1].sum() == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_personas": 7}, "n_personas must be from 1 to 6, found 7"),
        ({"n_personas": 0}, "n_personas must be from 1 to 6, found 0"),
        ({"users_per_persona": 0}, "users_per_persona must be a whole number of at least 1"),
        ({"answers": 0}, "answers must be a whole number of at least 1"),
        ({"statements": "mine"}, "statements='mine' is not known: use 'own' or 'all'"),
        ({"personas": []}, "personas must be different names"),
        ({"personas": "interest-in-art"}, "personas must be different names"),
        ({"personas": ["art", "interest-in-art"]}, "personas must be different names"),
        ({"personas": ["no-such"]}, r"no-such\.jsonl: no such file"),
    ],
)
def test_bad_arguments_are_refused(folder, options, said):
    with pytest.raises(InputError, match=said):
        persona(folder, **options)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"statement": "S", "answer_matching_behavior": "Maybe"}, "row 1, .*found 'Maybe'; it must be Yes or No"),
        ({"statement": "S", "answer_matching_behavior": None}, "it must be Yes or No"),
        ({"statement": "", "answer_matching_behavior": " Yes"}, "every row needs a statement"),
        ({"statement": "S"}, "has no column 'answer_matching_behavior'"),
    ],
)
def test_bad_files_are_refused(folder, line, said):
    (folder / "interest-in-art.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=said):
        persona(folder)


def test_a_damaged_file_is_refused(folder):
    (folder / "interest-in-art.jsonl").write_text('{"statement": "S", "answer_ma')
    with pytest.raises(InputError, match=r"interest-in-art\.jsonl"):
        persona(folder)


def test_paper_population(shared):
    start = time.process_time()
    comparisons = persona(shared / "persona", n_personas=3, users_per_persona=1000, answers=200)
    assert time.process_time() - start < 5  # 0.15 s on a machine at rest
    assert len(comparisons) == 600_000
    assert len(comparisons.prompts) == 3000
    assert comparisons.label.mean() == pytest.approx(1 / 6, abs=0.002)
    six = persona(shared / "persona", n_personas=6, users_per_persona=20, answers=1000)
    assert len(six.prompts) == 6000
    assert six.label.mean() == pytest.approx(1 / 12, abs=0.003)
