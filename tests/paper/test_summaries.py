import json

import numpy as np
import polars as pl
import pytest

from pal.comparisons import Comparisons
from pal.errors import InputError
from pal.paper import _generated, _summaries_tables, summaries, table_4, table_6
from pal.paper._summaries import folds


@pytest.fixture
def folder(tmp_path):
    _generated.write(tmp_path, answers=20)
    return tmp_path


def row(worker="w", left=("one", "sup4"), right=("two", "sup2"), choice=0, post="a post"):
    sides = [{"text": text, "policy": policy} for text, policy in (left, right)]
    return {"info": {"id": "x", "post": post}, "summaries": sides, "choice": choice, "worker": worker, "split": "train"}


def written(folder, *rows):
    pl.DataFrame(list(rows)).write_ndjson(folder / "train.jsonl")
    return folder


def test_the_published_schema_is_read(tmp_path):
    rows = summaries.read(written(tmp_path, row(choice=1), row(worker=None)))
    assert rows.height == 1
    assert rows.row(0) == ("w", "a post", "one", "two", "sup4", "sup2", 1, "train")
    answers = summaries.comparisons(rows)
    assert answers.label.tolist() == [0.0]  # choice 1 is the second summary, on the right
    assert answers.responses.ids.to_list() == ["one", "two"]


def test_jsonl_and_parquet_are_the_same(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("parquet")
    for path in folder.glob("*.jsonl"):
        pl.read_ndjson(path, infer_schema_length=None).write_parquet(other / f"{path.stem}.parquet")
    assert summaries.read(folder).equals(summaries.read(other))


def test_other_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no \.parquet or \.jsonl files"):
        summaries.read(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="not in the schema") as error:
        summaries.read(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="must be 0 or 1"):
        summaries.read(written(tmp_path, row(choice=2)))


def test_li_keeps_supervised_policies_and_ten_workers(folder):
    rows = summaries.read(folder)
    kept = summaries.filter_li(rows)
    policies = set(kept["left_policy"]) | set(kept["right_policy"])
    assert policies == {"sup4", "sup4_6b", "sup2"}
    train = kept.filter(pl.col("fold") == "train")
    assert train["worker"].n_unique() == 10
    assert not train["worker"].str.starts_with("other").any()
    assert kept["post"].null_count() == 0
    assert kept.filter(pl.col("fold") == "validation")["worker"].n_unique() == 16


def test_stiennon_keeps_every_policy_but_no_news(folder):
    rows = summaries.read(folder)
    kept = summaries.filter_stiennon(rows)
    assert set(kept["left_policy"]) == set(_generated.POLICIES)
    assert rows.height - kept.height == 2


def test_by_length_seven_prefer_longer_and_three_shorter():
    users = [f"u{place}" for place in range(10)]
    answers = Comparisons.from_columns(user_id=users, left=["longer text"] * 10, right=["short"] * 10, label=[1] * 10)
    labels = summaries.by_length(answers, users).label
    assert labels.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    same = Comparisons.from_columns(user_id=["a"], left=["four"], right=["five"], label=[1])
    assert summaries.by_length(same, ["a"]).label.tolist() == [0.0]  # of two as long, the right one


@pytest.mark.parametrize("few", [True, False])
def test_unseen_workers_are_in_no_other_part(few):
    parts = folds("generated", few, "real", "hashing-64", 0)

    def workers(part):
        table = part.comparisons
        return set(table.user_ids.gather(np.unique(table.user)))

    assert workers(parts.unseen).isdisjoint(workers(parts.train) | workers(parts.validation) | workers(parts.seen))
    assert workers(parts.seen) <= workers(parts.train)
    assert len(workers(parts.train)) == (10 if few else 11)


def test_table_4_runs_the_whole_path_on_a_generated_file(tmp_path):
    cells = [cell for cell in table_4.cells("small", 1) if cell["labels"] == "length"]
    rows = [{**cell, **result} for cell, result in table_4.EXPERIMENT.run(cells)]
    json.dumps(rows)
    assert sorted(map(str, cells)) == sorted(str({name: row[name] for name in cells[0]}) for row in rows)
    assert all(check.ok for check in table_4.EXPERIMENT.checks(rows))
    assert "not the data" in table_4.EXPERIMENT.table(rows)[-1]["verdict"]
    assert table_4.EXPERIMENT.figures(rows, tmp_path)[0].exists()


def test_table_6_puts_the_papers_numbers_beside_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(_summaries_tables, "sources_here", lambda: ["ukpconvarg"])
    numbers = dict.fromkeys(("seen", "unseen", "unseen_adapted", "overall", "overall_adapted"), 0.78)
    counts = {"workers": 187, "workers_unseen": 47, "parameters": 1}
    rows = [{**cell, **numbers, **counts} for cell in table_6.cells("paper", 2)]
    lines = table_6.EXPERIMENT.table(rows)
    real = [line for line in lines if line["data"] == "UKPConvArg, labels real, prompt none, settings ours"]
    assert [line["K"] for line in real] == list(range(1, 11))
    assert all(line["seen (paper)"] == "-" for line in lines if "labels length" in line["data"])
    assert real[4]["unseen_adapted (paper)"] == "64.33 ± 0.10"
    assert real[-1]["verdict"].startswith("as in the paper")
    assert table_6.EXPERIMENT.figures(rows, tmp_path)[0].exists()
    assert not all(check.ok for check in table_6.EXPERIMENT.checks(rows))  # by length, K > 1 must gain
