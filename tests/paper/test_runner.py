"""`pal reproduce`: cells are cached and taken up again, lists are JSON, checks fail for a broken method."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest

import pal
from pal import cli, paper
from pal.paper import _runner
from pal.paper._experiment import FOLDER, Check, Experiment


class Killed(BaseException):
    """As a signal: nothing catches it."""


def counting(ran, kill_at=None, good=True):
    """An experiment of four cells that writes down which it ran."""

    def run(cells):
        for cell in cells:
            if cell["n"] == kill_at:
                raise Killed
            ran.append(cell["n"])
            yield cell, {"square": cell["n"] ** 2}

    def figures(rows, folder):
        path = folder / "counting.png"
        path.write_bytes(b"")
        return [path]

    return Experiment(
        name="counting",
        what="counts",
        data="none",
        minutes={"small": 0.0, "paper": 0.0},
        cells=lambda scale, seeds: [{"n": n, "scale": scale, "seed": s} for s in range(seeds) for n in range(4)],
        run=run,
        table=lambda rows: [{"claim": "a sum", "paper": 14, "ours": sum(row["square"] for row in rows)}],
        figures=figures,
        checks=lambda rows: [Check("the sum", 14.0, "14", good)],
    )


@pytest.fixture
def only(monkeypatch):
    """Makes an experiment the only one there is."""

    def put(one):
        monkeypatch.setattr(paper, "EXPERIMENTS", {one.name: one.name})
        for module in (paper, _runner):
            monkeypatch.setattr(module, "experiment", lambda _name: one)
        monkeypatch.setattr(_runner, "EXPERIMENTS", {one.name: one.name})
        return one

    return put


def test_a_killed_run_goes_on_where_it_was(only, tmp_path):
    ran = []
    only(counting(ran, kill_at=2))
    with pytest.raises(Killed):
        _runner.reproduce(["counting"], out=tmp_path)
    assert ran == [0, 1]
    assert not (tmp_path / "counting.json").exists()
    only(counting(ran))
    (record,) = _runner.reproduce(["counting"], out=tmp_path)
    assert ran == [0, 1, 2, 3]
    assert [row["square"] for row in record["rows"]] == [0, 1, 4, 9]
    assert json.loads((tmp_path / "counting.json").read_text()) == record
    assert not list(tmp_path.rglob("*.counting*"))


def test_a_damaged_or_foreign_cell_is_run_again(only, tmp_path):
    ran = []
    only(counting(ran))
    _runner.reproduce(["counting"], out=tmp_path)
    first, second, *_ = sorted((tmp_path / "cells" / "counting").iterdir())
    first.write_text('{"cell": {"n":')
    second.write_text(json.dumps({**json.loads(second.read_text()), "cell": {"n": 77}}))
    _runner.reproduce(["counting"], out=tmp_path)
    assert len(ran) == 6


def test_other_settings_are_other_cells(only, tmp_path):
    ran = []
    only(counting(ran))
    for scale, seeds in (("small", 1), ("paper", 1), ("paper", 2), ("paper", None)):
        _runner.reproduce(["counting"], scale, seeds, tmp_path)
    assert len(ran) == 4 + 4 + 4 + 12


def test_a_record_says_how_it_came_about(only, tmp_path):
    only(counting([]))
    told = []
    (record,) = _runner.reproduce(["counting"], "paper", 1, tmp_path, lambda *step: told.append(step))
    assert record["command"] == "pal reproduce counting --scale paper --seeds 1"
    assert record["seconds"] >= 0
    assert record["peak_mib"] > 10
    assert record["figures"] == ["counting.png"]
    assert record["checks"] == [{"name": "the sum", "seen": 14.0, "wanted": "14", "ok": True}]
    assert set(record) >= {"commit", "machine", "seeds", "scale", "table", "rows"}
    assert str(tmp_path) not in (tmp_path / "counting.json").read_text()
    assert told == [("counting", done, 4) for done in range(5)]


def test_what_cannot_run_is_skipped_with_a_reason(only, tmp_path):
    one = counting([])
    only(Experiment(**{**one.__dict__, "missing": lambda _scale: "no photographs"}))
    (record,) = _runner.reproduce(out=tmp_path)
    assert record["skipped"] == "no photographs"
    assert not (tmp_path / "counting.json").exists()


@pytest.mark.parametrize(("scale", "seeds", "said"), [("huge", 1, "small or paper"), ("small", 0, "at least 1")])
def test_bad_settings_are_said(scale, seeds, said, tmp_path):
    with pytest.raises(pal.InputError, match=said):
        _runner.reproduce(["figure-4"], scale, seeds, tmp_path)
    with pytest.raises(pal.InputError, match=said):
        _runner.listing(scale, seeds, tmp_path)


def test_an_unknown_name_is_said(tmp_path):
    with pytest.raises(pal.InputError, match="figure-44"):
        _runner.reproduce(["figure-44"], out=tmp_path)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    def call(*arguments):
        monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)  # main sets its own: this puts it back
        monkeypatch.setattr(sys, "argv", ["pal", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return call


def test_the_list_is_json_alone(command):
    code, out, err = command("reproduce", "--list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert err == ""
    assert [row["name"] for row in rows] == list(paper.EXPERIMENTS)
    assert all(set(row) == {"name", "what", "data", "minutes", "done"} for row in rows)
    assert all(set(row["minutes"]) == {"small", "paper"} and row["done"] is False for row in rows)


def test_the_command_shows_tables_and_fails_with_a_check(only, command):
    only(counting([]))
    code, out, _ = command("reproduce", "counting", "-o", "here")
    assert code == 0
    assert "a sum" in out
    code, out, _ = command("reproduce", "-o", "here", "--json")
    assert json.loads(out)[0]["table"] == [{"claim": "a sum", "paper": 14, "ours": 14}]
    assert json.loads(command("reproduce", "--list", "-o", "here")[1])[0]["done"] is True
    only(counting([], good=False))
    code, _, err = command("reproduce", "counting", "-o", "here")
    assert code == 1
    assert "the sum" in err
    assert command("reproduce", "counting", "--scale", "huge")[0] == 2


def test_every_experiment_is_whole(tmp_path):
    token = FOLDER.set(tmp_path)
    try:
        for name in paper.EXPERIMENTS:
            one = paper.experiment(name)
            assert one.name == name
            for scale in ("small", "paper"):
                assert scale in one.minutes
                cells = one.cells(scale, 2)
                assert json.loads(json.dumps(cells)) == cells
                kept = sorted(json.dumps(cell, sort_keys=True) for cell in cells)
                assert all(a != b for a, b in pairwise(kept)), f"{name}: a cell appears twice"
    finally:
        FOLDER.reset(token)


def test_importing_pal_and_its_help_loads_no_plotting():
    code = (
        "import sys, pal.cli, pal.paper; sys.exit('matplotlib' in sys.modules or 'pal.paper.figure_4' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
