"""Figure 4, figures 7 to 13 and appendix G, end to end on tiny populations; their checks catch a broken method."""

import copy
import json

import pytest

from pal.paper import _runner, appendix_g, figure_4, figures_7_13
from pal.paper._recipes import RECIPES
from pal.paper._stacks import Recipe

TINY = {
    "dims": (2, 16),
    "groups": {"k_true": (3,), "k": (1, 3), "each": 12, "n": 100},
    "answers": {"k_true": 3, "k": (1, 3), "each": 12, "n": (20, 100)},
    "unseen": {"k_true": 3, "k": (1, 3), "each": 12, "n": (100,)},
    "points": {"k_true": 3, "each": 12, "n": 100},
    "recipe": {"k_true": 3, "k": (1, 3), "each": 12, "n": (20, 100)},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What a run of all three leaves, on few users and few steps."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figure_4.SETTINGS, "small", TINY)
        patch.setattr(figure_4, "UNSEEN", 20)
        patch.setattr(figure_4, "NEW_ANSWERS", (0, 5, 100))
        patch.setattr(figures_7_13, "SETS", {"small": 1, "paper": 1})
        patch.setattr(figures_7_13, "USERS", 30)
        patch.setitem(RECIPES, "ours", Recipe(steps=600))
        patch.setitem(RECIPES, "paper", Recipe(init="random", batch_size=1 << 30, steps=100, drops=()))
        found = _runner.reproduce(["figure-4", "figures-7-13", "appendix-g"], out=folder)
    return folder, {record["name"]: record for record in found}


def test_each_leaves_json_and_pictures(records):
    folder, found = records
    for name, record in found.items():
        assert json.loads((folder / f"{name}.json").read_text()) == record
        assert record["table"]
        assert all({"claim", "paper", "ours", "verdict"} <= row.keys() for row in record["table"])
        assert record["figures"]
        for figure in record["figures"]:
            assert (folder / figure).read_bytes().startswith(b"\x89PNG")


def test_the_checks_hold(records):
    _, found = records
    assert [check for record in found.values() for check in record["checks"] if not check["ok"]] == []


def test_the_checks_catch_a_method_that_does_not_personalise(records):
    _, found = records
    rows = copy.deepcopy(found["figure-4"]["rows"])
    one = {(r["kind"], r["dim"], r["per_user"], r["seed"]): r["accuracy"] for r in rows if r["k"] == 1}
    for row in rows:
        row["accuracy"] = one.get((row["kind"], row["dim"], row["per_user"], row["seed"]), row["accuracy"])
    assert any(not check.ok for check in figure_4.EXPERIMENT.checks(rows))
    rows = copy.deepcopy(found["figures-7-13"]["rows"])
    for row in rows:
        row["accuracy"] = 0.7
    assert any(not check.ok for check in figures_7_13.EXPERIMENT.checks(rows))


def test_the_checks_catch_an_adaptation_that_learns_nothing(records):
    _, found = records
    rows = copy.deepcopy(found["figure-4"]["rows"])
    for row in rows:
        if row["what"] == "unseen":
            row["unseen_accuracy"] = [row["unseen_accuracy"][0]] * len(row["answers"])
    assert any(not check.ok for check in figure_4.EXPERIMENT.checks(rows))


def test_the_checks_catch_points_that_are_elsewhere(records):
    _, found = records
    rows = copy.deepcopy(found["figure-4"]["rows"])
    for row in rows:
        if row["what"] == "points":
            row["off"] = 1.0
    assert any(not check.ok for check in figure_4.EXPERIMENT.checks(rows))


def test_costs_are_those_measured(records):
    _, found = records
    rows = {row["experiment"]: row for row in found["appendix-g"]["rows"]}
    assert set(rows) == {"figure-4", "figures-7-13"}
    assert rows["figure-4"]["minutes"] == pytest.approx(found["figure-4"]["seconds"] / 60)


def test_costs_need_results(tmp_path):
    (record,) = _runner.reproduce(["appendix-g"], out=tmp_path)
    assert "run" in record["skipped"]
    assert appendix_g.EXPERIMENT.minutes["paper"] == 0


def test_the_paper_scale_is_the_papers():
    cells = figure_4.cells("paper", 5)
    seen = [cell for cell in cells if cell["what"] == "seen" and cell["recipe"] == "ours"]
    assert {cell["per_user"] for cell in seen} == {20, 40, 60, 80, 100, 400, 800, 1000}
    assert {cell["k_true"] for cell in seen} == {2, 3, 4, 5, 6}
    assert {(cell["kind"], cell["dim"]) for cell in seen} == {(k, d) for k in ("partition", "mixture") for d in (2, 16)}
    assert {cell["seed"] for cell in seen} == set(range(5))
    assert all(cell["n_users"] == 50 * cell["k_true"] for cell in seen)
