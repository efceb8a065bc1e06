import json

import numpy as np
import pytest

from pal.paper import figure_5, figure_15, table_5
from pal.paper._persona import TESTED, draw
from pal.paper._statements import MADE, PERSONAS, Statements, source_here


@pytest.fixture
def statements():
    return Statements.of(3, "own", MADE, 40)


@pytest.fixture
def no_files(monkeypatch, tmp_path):
    monkeypatch.setenv("PAL_DATA", str(tmp_path))


def with_results(experiment, cells):
    rows = []
    for cell, result in experiment.run(cells):
        assert cell in cells
        rows.append({**cell, **result})
    json.dumps(rows)
    assert len(rows) == len(cells)
    return rows


def test_a_persona_says_half_of_its_own_statements_and_no_other(statements):
    assert statements.says.shape == (3, 120)
    for persona, says in enumerate(statements.says):
        own = np.arange(40 * persona, 40 * (persona + 1))
        assert says[own].sum() == 20
        assert says.sum() == 20


def test_readings_differ_in_what_is_asked(statements):
    assert len(statements.pool) == 120
    assert len(Statements.of(3, "said", MADE, 40).pool) == 60
    assert len(Statements.of(3, "all", MADE, 40).pool) == 240


def test_nobody_is_asked_twice_and_labels_follow_from_the_persona(statements):
    cohort = draw(statements, people=5, answers=30, seed=0)
    assert cohort.asked.shape == (15, 2 * TESTED + 30)
    assert all(len(set(row)) == len(row) for row in cohort.asked.tolist())
    table = cohort.comparisons(slice(0, 10)).comparisons
    assert table.label.tolist() == [
        float(statements.says[cohort.persona[user], prompt])
        for user, prompt in zip(table.user, table.prompt, strict=True)
    ]


def test_fewer_answers_are_the_first_of_more(statements):
    few, many = (draw(statements, people=5, answers=n, seed=0) for n in (10, 40))
    assert np.array_equal(few.asked, many.asked[:, : 2 * TESTED + 10])
    assert not np.array_equal(few.asked, draw(statements, 5, 10, 1).asked)
    assert not np.array_equal(few.asked, draw(statements, 5, 10, 0, "unseen").asked)


def test_statements_to_test_on_can_be_kept_from_everyone(statements):
    cohort = draw(statements, people=5, answers=30, seed=0, unseen="statement")
    tested, learned = cohort.asked[:, :TESTED], cohort.asked[:, TESTED:]
    assert not set(tested.flat) & set(learned.flat)


def test_tables_hold_the_same_answers_as_the_comparisons(statements):
    cohort = draw(statements, people=4, answers=12, seed=0)
    tables = cohort.tables(12)
    table = cohort.comparisons(cohort.learned_from(12)).comparisons
    assert tables.answers.user.tolist() == table.user.tolist()
    assert tables.answers.question.tolist() == table.prompt.tolist()
    assert tables.answers.label.tolist() == table.label.tolist()
    assert len(tables.val_answers) == 12 * TESTED


def test_the_oracle_knows_all_once_the_persona_is_plain(statements):
    cohort = draw(statements, people=20, answers=60, seed=0)
    label = cohort.test.comparisons.label
    assert np.array_equal(cohort.oracle(60), label)
    assert set(np.round(cohort.oracle(0), 3)) <= {0.0, np.float32(0.333)}


def test_figure_5_finds_the_groups(no_files, tmp_path):
    cells = [
        cell
        for cell in figure_5.cells("small", 1)
        if cell["k_star"] == 3 and cell["settings"] == "ours" and cell["panel"] in "ad" and cell["k"] in (1, 3)
    ]
    rows = with_results(figure_5.EXPERIMENT, cells)
    assert all(check.ok for check in figure_5.EXPERIMENT.checks(rows))
    assert {line["panel"] for line in figure_5.EXPERIMENT.table(rows)} == {"a", "d"}
    by_shots = {row["shots"]: row["balanced_accuracy"] for row in rows if row["panel"] == "d"}
    assert by_shots[0] < 0.6 < by_shots[20]


def test_figure_5_draws_every_panel(no_files, tmp_path):
    numbers = ("accuracy", "balanced_accuracy", "always_no", "oracle", "oracle_balanced")
    rows = [{**cell, **dict.fromkeys(numbers, 0.9)} for cell in figure_5.cells("paper", 1)]
    (picture,) = figure_5.EXPERIMENT.figures(rows, tmp_path)
    assert picture.stat().st_size > 10_000
    assert {line["panel"] for line in figure_5.EXPERIMENT.table(rows)} == {"a", "b", "c", "d", "reading", "settings"}


def test_cells_are_distinct_and_plain():
    for scale in ("small", "paper"):
        texts = [json.dumps(cell, sort_keys=True) for cell in figure_5.cells(scale, 2)]
        assert len(set(texts)) == len(texts)


def test_a_broken_method_fails_the_checks(no_files):
    numbers = {"accuracy": 0.8333, "balanced_accuracy": 0.5, "always_no": 0.8333, "oracle": 0.7, "oracle_balanced": 1}
    rows = [{**cell, **numbers} for cell in figure_5.cells("small", 1)]
    assert not any(check.ok for check in figure_5.EXPERIMENT.checks(rows))


def test_table_5_counts_statements_made_here_where_the_files_are_absent(no_files):
    assert source_here() == MADE
    rows = with_results(table_5.EXPERIMENT, table_5.cells("small", 1))
    lines = table_5.EXPERIMENT.table(rows)
    assert [line["k_star"] for line in lines] == [2, 3, 4, 5, 6]
    assert all("nothing to compare" in line["verdict"] for line in lines)
    assert all(check.ok for check in table_5.EXPERIMENT.checks(rows))
    assert len(PERSONAS) == 6


def test_figure_15_shows_a_statement_of_its_own(tmp_path):
    rows = with_results(figure_15.EXPERIMENT, figure_15.cells("paper", 1))
    assert [row["label"] for row in rows] == [0.0, 1.0]
    assert figure_15.EXPERIMENT.figures(rows, tmp_path)[0].exists()
    assert all(check.ok for check in figure_15.EXPERIMENT.checks(rows))
