import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import pal
from pal import cli
from pal._commands import learn, study

COMMANDS = ("demo", "fit", "evaluate", "adapt", "rank", "score", "compare", "report", "simulate")
PAL = Path(sys.executable).with_name("pal")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, tmp_path_factory):
    """Runs the command in this process, in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.setenv("PAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)  # main sets its own: this puts it back
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return call


def quick(monkeypatch):
    """Trains for a moment only."""
    real = pal.TrainConfig

    def short(**values):
        return real(**{**values, "max_steps": 40})

    for room in (learn, study):
        monkeypatch.setattr(room, "TrainConfig", short)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A simulated population, the same with half the people later, and a model of the first half."""
    folder = tmp_path_factory.mktemp("town")
    population = pal.simulation.population("a", 20, 2, 4, 20, seed=1)
    pal.simulation.write(population, folder)
    late = population.comparisons.user >= 14
    population.comparisons.take(~late).write(folder / "early.parquet")
    population.comparisons.take(late).write(folder / "late.parquet")
    data = population.data.take(~late).split(unseen_users=0.0)
    config = pal.TrainConfig(n_prototypes=2, max_steps=60)
    pal.fit(data.train, data.validation, config).model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A table of texts, and a model of it by the hashing encoder."""
    folder = tmp_path_factory.mktemp("texts")
    people = pal.simulation.demo(n_users=12)
    people.write(folder / "answers.jsonl")
    data = pal.embed(people, "hashing").split(unseen_users=0.0)
    config = pal.TrainConfig(n_prototypes=2, max_steps=40)
    pal.fit(data.train, data.validation, config).model.save_pretrained(folder / "model")
    return folder


# -- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: pal {command} " in " ".join(out.split())
    assert "--json" in out


def test_the_help_names_every_command(run):
    for arguments in ([], ["--help"]):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert all(f"\n  {command} " in out for command in COMMANDS)


def test_simulate_fit_evaluate_report(run, monkeypatch, tmp_path):
    quick(monkeypatch)
    code, out, _ = run("simulate", "-o", "town", "--users", 20, "--per-user", 20, "--dim", 4, "--json")
    assert code == 0
    assert json.loads(out)["comparisons"] == 400
    own = ["town/comparisons.parquet", "--embeddings", "town/embeddings.parquet"]
    code, out, _ = run("fit", *own, "-o", "m", "--prototypes", "1-2")
    assert code == 0
    assert "btl-linear" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "town"]
    code, out, err = run("fit", *own, "-o", "m2", "--prototypes", 2, "--json", "--start", "m", "--map", "mlp")
    if code == 2:  # the choice among 1-2 was another number: the start's is kept
        assert "prototypes" in err
    else:
        assert set(json.loads(out)["models"]) >= {"pal", "majority", "per-user", "btl-linear"}
    code, out, _ = run("evaluate", "m", *own, "--shots", "0,2", "--seeds", 1)
    assert code == 0
    assert "people the model knows" in out
    assert "new people" in out
    code, out, _ = run("report", "m", "-o", "page.html")
    assert (code, (tmp_path / "page.html").read_text()[:15].lower()) == (0, "<!doctype html>")
    code, out, _ = run("report", "m", "-o", "page.html", "--json")
    assert json.loads(out) == {"out": "page.html"}


def test_evaluate_prints_json_alone(run, town):
    own = [town / "comparisons.parquet", "--embeddings", town / "embeddings.parquet"]
    code, out, _ = run("evaluate", town / "model", *own, "--shots", "0,2", "--seeds", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["seen"]["n_users"] == 14
    assert [row["shots"] for row in found["shots"]] == [0, 2]
    code, out, err = run("evaluate", town / "model", *own, "--shots", 50, "--json")
    assert code == 0
    assert json.loads(out)["shots"] == []
    assert err.count("\n") == 1
    assert "use fewer shots" in err


def test_a_measurement_that_cannot_be_made_is_an_error(run, town, tmp_path):
    vectors = pl.read_parquet(town / "embeddings.parquet")
    short = vectors.with_columns(embedding=pl.Series([v[:3] for v in vectors["embedding"].to_list()]))
    short.write_parquet(tmp_path / "short.parquet")
    code, out, err = run("evaluate", town / "model", town / "late.parquet", "--embeddings", "short.parquet", "--json")
    assert (code, out) == (2, "")
    assert "found 3" in err
    assert err.count("\n") == 1


def test_a_usage_error_names_the_help_of_its_command(run):
    for arguments, command in ((("fit", "--colour"), "pal fit"), (("--colour",), "pal")):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert f"See '{command} --help'." in err


def test_python_m_pal_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pal", "rank"])
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("pal", run_name="__main__")
    assert stop.value.code == 2
    assert "See 'pal rank --help'." in capsys.readouterr().err


def test_a_simulation_replaces_only_a_simulation(run, tmp_path):
    few = ("--users", 4, "--per-user", 5, "--dim", 3)
    assert run("simulate", "-o", "town", *few)[0] == run("simulate", "-o", "town", *few)[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparisons.parquet").write_text("my own")
    code, _, err = run("simulate", "-o", "mine", *few)
    assert (code, (tmp_path / "mine" / "comparisons.parquet").read_text()) == (2, "my own")
    assert "is there, of no simulation: choose another folder" in err


def test_a_model_is_asked_about_everybody_in_a_polis_export(run, tmp_path):
    """However few their votes: only a fit leaves people out."""
    random = np.random.default_rng(0)
    folder = tmp_path / "town"
    folder.mkdir()
    statements = [f"{i},Statement number {i}" for i in range(12)]
    (folder / "comments.csv").write_text("\n".join(["comment-id,comment-body", *statements]))
    rows = [[person, *random.choice([-1, 1], 12)] for person in range(12)]
    for row in rows[8:]:
        row[4:] = [""] * 9
    lines = [",".join(map(str, row)) for row in (["participant", *range(12)], *rows)]
    (folder / "participants-votes.csv").write_text("\n".join(lines))
    data = pal.embed(pal.datasets.polis(folder), "hashing")
    model = pal.fit(data, config=pal.TrainConfig(n_prototypes=1, max_steps=10)).model
    model.save_pretrained("model")
    assert len(model.user_ids) == 8
    assert run("score", "model", folder, "-o", "scored.parquet")[0] == 0
    assert len(pl.read_parquet("scored.parquet")) == 8 * 12 + 4 * 3
    assert "12 people added" in run("adapt", "model", folder, "-o", "more")[1]


def test_people_are_added_and_taken_out(run, town, tmp_path):
    late = [town / "late.parquet", "--embeddings", town / "embeddings.parquet"]
    code, out, _ = run("adapt", town / "model", *late, "-o", "more", "--json")
    assert code == 0
    assert {k: v for k, v in json.loads(out).items() if k != "gap"} == {
        "added": 6,
        "replaced": 0,
        "removed": 0,
        "n_users": 20,
    }
    code, out, _ = run("adapt", "more", *late)
    before = "6 of them known before: their weights are now of these answers alone"
    said = f"6 people added ({before}), 0 taken out; more knows 20.\n"
    assert (code, out) == (0, said)
    code, out, _ = run("adapt", "more", "--remove", "u0020", "--remove", "u0001", "--remove", "u0020")
    assert (code, out) == (0, "0 people added, 2 taken out; more knows 18.\n")
    assert not any(b"u0020" in path.read_bytes() for path in (tmp_path / "more").iterdir())
    assert "u0020" not in pal.RewardModel.from_pretrained("more").user_ids
    assert len(pal.RewardModel.from_pretrained(town / "model").user_ids) == 14


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_score(run, town, ending):
    own = [town / "comparisons.parquet", "--embeddings", town / "embeddings.parquet"]
    code, out, _ = run("score", town / "model", *own, "-o", f"s.{ending}", "--json")
    assert (code, json.loads(out)) == (0, {"rows": 400, "out": f"s.{ending}"})
    reader = {"parquet": pl.read_parquet, "jsonl": pl.read_ndjson, "csv": pl.read_csv}[ending]
    frame = reader(f"s.{ending}")
    assert frame["probability"].is_between(0, 1).all()
    # of unseen people the probability is a mean over the population: near .5 it may lean to the other side
    seen = frame.filter(
        pl.col("user_id").cast(str).is_in(pl.read_parquet(town / "model" / "users.parquet")["user_id"].to_list())
    )
    assert len(seen)
    assert ((seen["margin"] > 0) == (seen["probability"] > 0.5)).all()


def test_compare(run, town):
    own = [town / "comparisons.parquet", "--embeddings", town / "embeddings.parquet"]
    options = ["--models", "majority,btl-linear", "--seeds", 1, "--shots", "0,2"]
    code, out, _ = run("compare", *own, *options)
    assert code == 0
    assert "majority" in out
    code, out, _ = run("compare", *own, *options, "--json")
    assert code == 0
    assert [row["model"] for row in json.loads(out)] == ["majority", "btl-linear"]


def test_texts(run, monkeypatch, texts):
    quick(monkeypatch)
    options = ["--encoder", "hashing", "--prototypes", 2, "--unseen-users", 0]
    code, out, _ = run("fit", texts / "answers.jsonl", "-o", "m", *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["data"]["n_users"] == 12
    who = pal.RewardModel.from_pretrained("m").user_ids[0]
    responses = ["Disagree", "Agree [now]"]
    code, out, _ = run("rank", "m", *responses, "--user", who, "--prompt", "More trees.", "--json")
    assert code == 0
    rows = json.loads(out)
    assert sorted(row["response"] for row in rows) == sorted(responses)
    assert rows[0]["reward"] >= rows[1]["reward"]
    code, out, _ = run("rank", "m", *responses, "--prompt", "More trees.")
    assert code == 0
    assert "Agree [now]" in out


def test_the_installed_script(town):
    def script(*arguments):
        return subprocess.run([PAL, *arguments], capture_output=True, text=True, cwd=town)

    done = script("evaluate", "model", "early.parquet", "--embeddings", "embeddings.parquet", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["seen"]["n_users"] == 14
    assert done.stderr == ""
    done = script("fit", "nowhere.parquet", "-o", "m")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert not (town / "m").exists()


# -- what does not ---------------------------------------------------------------------------------------------------

GOOD = '{"user_id": "a", "left": "x", "right": "y", "label": 1}\n'
TABLES = {
    "empty.jsonl": "",
    "cut.jsonl": GOOD + GOOD[:20],
    "nouser.jsonl": '{"left": "x", "right": "y", "label": 1}\n',
    "nulluser.jsonl": GOOD + '{"user_id": null, "left": "x", "right": "y", "label": 1}\n',
    "emptyuser.jsonl": '{"user_id": "", "left": "x", "right": "y", "label": 1}\n',
    "same.jsonl": '{"user_id": "a", "left": "x", "right": "x", "label": 1}\n',
    "label.jsonl": '{"user_id": "a", "left": "x", "right": "y", "label": 7}\n',
    "good.jsonl": GOOD * 2,
    "header.csv": "user_id,left,right,label\n",
    "odd.txt": "hello",
    "taken/thesis.txt": "ten years",
    "foreign/config.json": "{}",
}
ENCODED = ("--encoder", "hashing")
OWN = ("--embeddings", "{town}/embeddings.parquet")
EARLY = "{town}/early.parquet"
MODEL = "{town}/model"
BAD = {
    "unknown command": (["bogus"], "No such command 'bogus'"),
    "unknown option": (["fit", "good.jsonl", "-o", "m", "--bogus"], "No such option"),
    "missing argument": (["fit"], "Missing argument 'DATA'"),
    "missing option": (["fit", "good.jsonl"], "Missing option"),
    "missing value": (["fit", "good.jsonl", "-o"], "requires an argument"),
    "not a number": (["simulate", "-o", "m", "--users", "many"], "--users"),
    "nothing to rank": (["rank", MODEL], "Missing argument"),
    "no such file": (["fit", "none.parquet", "-o", "m"], "none.parquet: no such file"),
    "unknown ending": (["fit", "odd.txt", "-o", "m", *ENCODED], "odd.txt"),
    "unknown folder": (["fit", "taken", "-o", "m", *ENCODED], "taken"),
    "empty file": (["fit", "empty.jsonl", "-o", "m", *ENCODED], "empty.jsonl"),
    "no rows": (["fit", "header.csv", "-o", "m", *ENCODED], "header.csv"),
    "cut line": (["fit", "cut.jsonl", "-o", "m", *ENCODED], "cut.jsonl"),
    "not UTF-8": (["fit", "latin.jsonl", "-o", "m", *ENCODED], "latin.jsonl"),
    "not parquet": (["fit", "fake.parquet", "-o", "m", *ENCODED], "fake.parquet"),
    "missing column": (["fit", "nouser.jsonl", "-o", "m", *ENCODED], "user_id"),
    "null user": (["fit", "nulluser.jsonl", "-o", "m", *ENCODED], "user_id"),
    "empty user": (["fit", "emptyuser.jsonl", "-o", "m", *ENCODED], "user_id"),
    "equal responses": (["fit", "same.jsonl", "-o", "m", *ENCODED], "same.jsonl"),
    "label out of range": (["fit", "label.jsonl", "-o", "m", *ENCODED], "7"),
    "too few answers": (["fit", "good.jsonl", "-o", "m", *ENCODED, "--unseen-users", "0"], "good.jsonl"),
    "ids without vectors": (["fit", EARLY, "-o", "m"], "--embeddings"),
    "no vectors there": (["fit", EARLY, "-o", "m", "--embeddings", "none.parquet"], "none.parquet"),
    "vectors of others": (["fit", EARLY, "-o", "m", "--embeddings", "other.parquet"], "other.parquet"),
    "a table as vectors": (["fit", EARLY, "-o", "m", "--embeddings", EARLY], "early.parquet"),
    "unknown encoder": (["fit", "good.jsonl", "-o", "m", "--encoder", "./none"], "./none"),
    "unknown model kind": (["fit", EARLY, *OWN, "-o", "m", "--model", "c"], "'--model': 'c' is not one of"),
    "model b without prompts": (["fit", EARLY, *OWN, "-o", "m", "--model", "b"], "prompt"),
    "unknown map": (["fit", EARLY, *OWN, "-o", "m", "--map", "deep"], "'--map': 'deep' is not one of"),
    "unknown loss": (["fit", EARLY, *OWN, "-o", "m", "--loss", "unheard"], "'--loss': 'unheard' is not one of"),
    "unknown device": (["fit", EARLY, *OWN, "-o", "m", "--device", "abacus"], "'--device': 'abacus' is not one of"),
    "prototypes of 0": (["fit", EARLY, *OWN, "-o", "m", "--prototypes", "0"], "--prototypes '0'"),
    "prototypes backwards": (["fit", EARLY, *OWN, "-o", "m", "--prototypes", "5-1"], "--prototypes '5-1'"),
    "prototypes in words": (["fit", EARLY, *OWN, "-o", "m", "--prototypes", "some"], "--prototypes 'some'"),
    "split by what": (["fit", EARLY, *OWN, "-o", "m", "--by", "moon"], "'--by': 'moon' is not one of"),
    "shares over one": (["fit", EARLY, *OWN, "-o", "m", "--test", "1.5"], "1.5"),
    "no start": (["fit", EARLY, *OWN, "-o", "m", "--start", "nowhere"], "nowhere: no such model folder"),
    "no model": (["evaluate", "nowhere", EARLY], "nowhere: no such model folder"),
    "foreign model": (["evaluate", "foreign", EARLY], "foreign"),
    "model of something else": (["report", "taken", "-o", "m"], "taken"),
    "a report of nothing": (["report", MODEL, "-o", "m"], "m"),
    "shots in words": (["evaluate", MODEL, EARLY, *OWN, "--shots", "few"], "--shots 'few'"),
    "negative shots": (["evaluate", MODEL, EARLY, *OWN, "--shots=-1"], "--shots '-1'"),
    "data of another width": (["evaluate", MODEL, "narrow.parquet", "--embeddings", "narrow-v.parquet"], "dimension 4"),
    "nothing to adapt": (["adapt", MODEL], "nothing to do"),
    "a stranger to remove": (["adapt", MODEL, "--remove", "stranger", "-o", "m"], "'stranger'; nobody was taken out"),
    "adapt into a thesis": (["adapt", MODEL, "--remove", "u0001", "-o", "taken"], "thesis.txt"),
    "adapt below a file": (["adapt", MODEL, "--remove", "u0001", "-o", "odd.txt/m"], "odd.txt"),
    "texts for own vectors": (["rank", MODEL, "x", "y"], "own vectors, and cannot embed texts: 'pal score'"),
    "no vectors to evaluate": (["evaluate", MODEL, "good.jsonl"], "own vectors: pass those of the data with --emb"),
    "no vectors to adapt to": (["adapt", MODEL, "good.jsonl", "-o", "m"], "own vectors: pass those of the data with"),
    "no vectors to score": (["score", MODEL, "good.jsonl", "-o", "m.csv"], "own vectors: pass those of the data with"),
    "a stranger to rank for": (["rank", "{texts}/model", "x", "--user", "stranger", "--prompt", "p"], "'stranger'"),
    "rank without a prompt": (["rank", "{texts}/model", "x"], "prompt"),
    "score into nothing known": (["score", MODEL, EARLY, *OWN, "-o", "m.docx"], "m.docx"),
    "compare with what": (["compare", EARLY, *OWN, "--models", "oracle"], "oracle"),
    "compare nothing": (["compare", EARLY, *OWN, "--models", ","], "model"),
    "compare no seeds": (["compare", EARLY, *OWN, "--models", "majority", "--seeds", "0"], "seeds must be"),
    "evaluate no seeds": (["evaluate", MODEL, EARLY, *OWN, "--seeds", "0"], "--seeds 0"),
    "fit into a thesis": (["fit", EARLY, *OWN, "-o", "taken"], "thesis.txt"),
    "fit into a file": (["fit", EARLY, *OWN, "-o", "odd.txt"], "it is a file"),
    "fit below a file": (["fit", EARLY, *OWN, "-o", "odd.txt/m"], "odd.txt is no folder that may be written to"),
    "a seed below 0": (["fit", EARLY, *OWN, "-o", "m", "--seed", "-1"], "seed must be a whole number of at least 0"),
    "two kinds of vectors": (["fit", EARLY, *OWN, *ENCODED, "-o", "m"], "--embeddings and --encoder are both given"),
    "a start of another map": (
        ["fit", EARLY, *OWN, "-o", "m", "--start", MODEL, "--map", "linear"],
        "the model to start from has map='mlp', but map='linear' is asked for",
    ),
    "a start of another size": (
        ["fit", EARLY, *OWN, "-o", "m", "--start", MODEL, "--prototypes", "5"],
        "the model to start from has n_prototypes=2",
    ),
    "an encoder misspelt": (["fit", "good.jsonl", "-o", "m", "--encoder", "hashign"], "did you mean 'hashing'?"),
    "score over what is read": (["score", MODEL, "good.jsonl", *OWN, "-o", "./good.jsonl"], "choose another file"),
    "select among one": (["select", EARLY, *OWN, "--prototypes", "1"], "nothing to choose"),
    "simulate nobody": (["simulate", "-o", "m", "--users", "0"], "n_users"),
    "simulate into a file": (["simulate", "-o", "odd.txt"], "--out odd.txt is a file: choose a folder"),
    "simulate what": (["simulate", "-o", "m", "--kind", "odd"], "kind"),
    "simulate too much": (["simulate", "-o", "m", "--dim", "1", "--prototypes", "40"], "prototypes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run, monkeypatch, name, town, texts, tmp_path):
    quick(monkeypatch)
    for file, text in TABLES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    (tmp_path / "latin.jsonl").write_bytes(GOOD.replace("x", "é").encode("latin-1"))
    (tmp_path / "fake.parquet").write_text(GOOD)
    pl.DataFrame({"id": ["q"], "embedding": [[1.0, 2.0]]}).write_parquet(tmp_path / "other.parquet")
    ids = pl.DataFrame({"user_id": ["u0001"], "left_id": ["r"], "right_id": ["s"], "label": [1.0]})
    ids.write_parquet(tmp_path / "narrow.parquet")
    vectors = pl.DataFrame({"id": ["r", "s"], "embedding": [[1.0, 2.0], [2.0, 1.0]]})
    vectors.write_parquet(tmp_path / "narrow-v.parquet")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    arguments, words = BAD[name]
    if name in ("model of something else", "a report of nothing"):
        (tmp_path / "m").mkdir()
        before[tmp_path / "m"] = (tmp_path / "m").stat().st_mtime_ns
    code, out, err = run(*(part.replace("{town}", str(town)).replace("{texts}", str(texts)) for part in arguments))
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert err.startswith("pal: ")
    assert words in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_corrected_table_starts_anew(run, monkeypatch, town, tmp_path):
    quick(monkeypatch)
    own = ("--embeddings", town / "embeddings.parquet", "--prototypes", "1", "-o", "m")
    table = pl.read_parquet(town / "early.parquet")
    table.write_parquet(tmp_path / "answers.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(learn, "summarise", lambda *_, **__: (_ for _ in ()).throw(pal.InputError("killed")))
        assert run("fit", "answers.parquet", *own)[0] == 2
    assert list(tmp_path.glob(".m.checkpoint/*/*"))
    table.with_columns(1 - pl.col("label")).head(-20).write_parquet(tmp_path / "answers.parquet")
    code, _, err = run("fit", "answers.parquet", *own)
    assert code == 0, err
    assert not list(tmp_path.glob(".m.checkpoint*"))


def test_repeated_rows_are_said_to_make_the_test_easier(run, monkeypatch, town, tmp_path):
    quick(monkeypatch)
    table = pl.read_parquet(town / "early.parquet")
    own = ("--embeddings", town / "embeddings.parquet", "--prototypes", "1", "-o", "m")
    for copies, warned in ((1, False), (2, False), (3, True)):  # two are in one part
        pl.concat([table] * copies).write_parquet(tmp_path / "answers.parquet")
        code, _, err = run("fit", "answers.parquet", *own)
        assert code == 0, err
        assert ("answers are to a question that the same person answered" in err) == warned
    assert "same person" not in run("fit", "answers.parquet", *own, "--by", "pair")[2]


def test_going_on_measures_as_new_only_whom_the_start_does_not_know(run, monkeypatch, town, tmp_path):
    quick(monkeypatch)
    own = ("--embeddings", town / "embeddings.parquet", "--start", town / "model", "--json")
    code, out, err = run("fit", town / "comparisons.parquet", *own, "-o", "m")
    assert code == 0, err
    record = json.loads(out)
    assert 0 < record["data"]["n_unseen_users"] < 4  # of four kept apart, six people of twenty are unknown
    assert "are known to the model to start from" in err
    assert record["difference"]["btl"] is not None  # one reward for all beside it


def test_going_on_with_a_map_that_is_asked_for_by_name(run, monkeypatch, town):
    quick(monkeypatch)
    own = [town / "early.parquet", "--embeddings", town / "embeddings.parquet", "--prototypes", 1]
    assert run("fit", *own, "-o", "linear", "--map", "linear")[0] == 0
    code, _, err = run("fit", *own, "-o", "more", "--start", "linear", "--map", "mlp")
    assert (code, err.splitlines()[-1]) == (
        2,
        "pal: the model to start from has map='linear', but map='mlp' is asked for",
    )


def test_going_on_embeds_as_the_start_did(run, monkeypatch, texts, tmp_path):
    quick(monkeypatch)
    code, _, err = run("fit", texts / "answers.jsonl", "--start", texts / "model", "-o", "m")
    assert code == 0, err
    assert pal.RewardModel.from_pretrained("m").config.encoder == "hashing"


def test_an_interrupt_is_said(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pal.RewardModel, "from_pretrained", stop)
    code, out, err = run("rank", "m", "x", "y")
    assert (code, out, err.strip()) == (130, "", "pal: stopped")


def test_json_and_an_error_leave_stdout_empty(run):
    assert run("evaluate", "nowhere", "none.parquet", "--json")[:2] == (2, "")
