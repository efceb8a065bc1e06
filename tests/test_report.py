import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

import pal
from pal import _plots, _report_parts, report
from pal.summary import details, headline

VOID = {"meta", "br", "link", "img", "input", "hr"}
EVIL = '<script>alert(1)</script> "quoted" & $x_1$ \u202e שלום 🦊'


class Page(HTMLParser):
    """Checks nesting and collects what is there."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.links, self.labels, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "tags left open"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.labels += [values["aria-label"]] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def metrics(accuracy):
    names = ("accuracy", "accuracy_by_user", "balanced_accuracy", "worst_tenth", "log_loss", "brier", "ece")
    interval = {name: [accuracy - 0.02, accuracy + 0.02] for name in names if name != "ece"}
    return dict.fromkeys(names, accuracy) | {
        "n": 1200, "n_ties": 12, "n_users": 60, "n_unseen": 0, "interval": interval,
    }  # fmt: skip


def record(k=3, text="Buses should run at night.", kind="votes"):
    item = {"text": text} if kind == "votes" else {"text": text, "prompt": text}
    curve = [
        {
            "shots": n,
            "accuracy_by_user": 0.7 + n / 100,
            "accuracy_by_user_low": 0.68,
            "accuracy_by_user_high": 0.9,
            "n_users": 9,
        }
        for n in (0, 1, 5)
    ]
    made = {
        "data": {
            "source": "town & <b>", "n_comparisons": 12000, "n_users": 60, "n_unseen_users": 9, "n_responses": 2,
            "n_prompts": 250, "n_ties": 3, "answers_per_user": [1, 2, 3, 4, 5],
            "split": {"train": 1, "validation": 2, "test": 3, "unseen": 4}, "encoder": "hashing", "seed": 0,
        },
        "models": {"pal": metrics(0.84), "btl": metrics(0.7), "other <i>": metrics(0.6)},
        "difference": {"btl": {"difference": 0.14, "low": 0.12, "high": 0.16}},
        "selection": [
            {
                "n_prototypes": n, "validation_log_loss": 0.6 - 0.01 * n, "gain": 0.01 * n, "gain_se": 0.002,
                "validation_accuracy": 0.8, "seconds": 1.5, "chosen": n == k, "accuracy_by_user": 0.7 + 0.01 * n,
            }
            for n in sorted({1, 2, k})
        ],
        "shots": curve,
        "shots_btl": curve,
        "kind": kind,
        "answers": ["Agree", "Disagree"] if kind == "votes" else None,
        "prototypes": [
            {
                "share": 1 / k, "n_users": 60 // k, "likes": [{**item, "reward": 2.0}],
                "dislikes": [{**item, "reward": -2.0}],
                "apart": [{**item, "reward": 2.0, "others": -1.0}] if k > 1 else [],
                "gain": {"difference": 0.1, "low": 0.05, "high": 0.15, "n_users": 20},
            }
            for _ in range(k)
        ],
        "divisive": [{**item, "values": np.linspace(-3, 3, k).tolist()}] if k > 1 else [],
        "agreed": [{**item, "values": [3.0] * k}] if k > 1 else [],
        "people": {
            "worst_tenth": 0.5, "worst_tenth_by_luck": 0.58, "n_users": 60, "test_answers": 6, "mean_answers": 50,
            "accuracy_quantiles": [0.2, 0.6, 0.8, 0.9, 1.0],
            "accuracy_histogram": {"edges": np.linspace(0, 1, 11).tolist(), "counts": list(range(10))},
            "worst": {"n_users": 6, "mean_answers": 44, "mean_weights": [1 / k] * k},
        },
        "training": {"model": "b", "map": "mlp", "n_prototypes": k, "slope": 1.0, "side_bias": 0.0, "seconds": 4.5},
        "command": "pal fit town.csv -o model",
    }  # fmt: skip
    made["verdict"] = headline(made) + " " + details(made)
    return made


def users(k=3, n=60):
    weights = np.random.default_rng(0).dirichlet(np.full(k, 0.4), n)
    ids = pl.Series("user_id", [f"secret-{i}" for i in range(n)])
    return pl.DataFrame(
        [ids, pl.Series("n_comparisons", [5] * n), pl.Series("weights", weights, dtype=pl.Array(pl.Float32, k))]
    )


@pytest.mark.parametrize("kind", ["votes", "responses"])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_a_page_of_every_k_is_whole_and_self_contained(k, kind):
    text = report.render(record(k, kind=kind), users(k), title="Town")
    page = Page(text)
    assert page.tags.count("h1") == 1
    assert "script" not in page.tags
    assert not [link for link in page.links if not link.startswith("#")]
    assert "http" not in text
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert page.labels
    assert all(page.labels)
    assert len(page.labels) == page.tags.count("figure") == (5 if k == 1 else 7)
    assert not re.search(r"#010[12]0", text), "a stand-in colour is left"


def test_what_the_page_says():
    text = " ".join(Page(report.render(record(), users(), title="Town")).text)
    for words in (
        "Personalisation helps: three prototypes predict people 14 points better than one reward for all.",
        "84.0%", "One reward for all", "+14.0 (12.0 to 16.0)", "Log-loss", "(chosen)", "Buses should run at night.",
        "5 answers of a new person take the accuracy from 70.0% to 75.0%", "Prototype 3",
        "Stands apart from the others",
        "luck alone would put the lowest tenth at 58.0%", "median 3, half 2 to 4", "pal fit town.csv -o model",
        "chance of “Agree”",
    ):  # fmt: skip
        assert words in text, words
    assert "secret-" not in text


def test_the_page_is_made_for_dark_print_and_phone():
    text = report.render(record(), users(), title="Town")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "@media (max-width" in text
    assert '<meta name="viewport"' in text
    assert '<html lang="en">' in text
    assert "<text" in text, "text in figures is text"


@pytest.mark.parametrize("kind", ["votes", "responses"])
def test_every_text_is_escaped(kind):
    evil = record(3, EVIL, kind) | {"command": EVIL, "answers": [EVIL, "Disagree"]}
    evil["data"]["source"] = evil["training"]["map"] = EVIL
    evil["models"][EVIL] = metrics(0.5)
    text = report.render(evil, users(), title=EVIL)
    page = Page(text)
    assert "<script" not in text
    assert not {"script", "i", "b"} & (set(page.tags) - {"b"})
    assert EVIL in "".join(page.text)


def test_same_record_same_page():
    assert report.render(record(), users(), title="t") == report.render(record(), users(), title="t")


@pytest.mark.parametrize(
    "part", ["data", "models", "selection", "shots", "shots_btl", "prototypes", "people", "difference"]
)
@pytest.mark.parametrize("empty", [True, False])
def test_parts_may_be_missing(part, empty):
    made = record()
    made[part] = type(made[part])()
    if not empty:
        del made[part]
    text = report.render(made, users(), title="t")
    Page(text)
    assert ("holds nothing for" in text) == (part in ("data", "models", "prototypes", "people"))


def test_nan_that_json_turned_to_none_is_shown_as_a_dash():
    made = record()
    for m in made["models"].values():
        m["balanced_accuracy"] = m["log_loss"] = None
        m["interval"] = {}
    made["selection"][0]["accuracy_by_user"] = None
    made["shots"][0]["accuracy_by_user_low"] = made["shots"][0]["accuracy_by_user_high"] = None
    assert "–" in report.render(made, users(), title="t")


def test_a_model_saved_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(u, *rng.permutation(8)[:2]) for u in range(6) for _ in range(12)]
    ids = [f"x{i}" for i in range(8)]
    comparisons = pal.Comparisons.from_columns(
        user_id=[u for u, *_ in rows],
        left_id=[ids[a] for _, a, _ in rows],
        right_id=[ids[b] for *_, b in rows],
        label=[float(a > b) for _, a, b in rows],
    )
    data = pal.embed(comparisons, embeddings=(ids, rng.normal(size=(8, 4)).astype(np.float32)))
    result = pal.fit(data, None, pal.TrainConfig(n_prototypes=2, max_steps=20, map="linear"))
    result.model.metrics = dict(result.metrics)
    result.model.save_pretrained(tmp_path / "model")
    path = report.write_report(tmp_path / "model", tmp_path / "new" / "report.html")
    text = path.read_text(encoding="utf-8")
    Page(text)
    assert "Preferences in model" in text
    assert "holds nothing for: data, models, prototypes, people" in text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    result.model.metrics = record(2)
    assert "town &amp; &lt;b&gt;" in report.write_report(result.model, path).read_text(encoding="utf-8")
    with pytest.raises(pal.InputError, match="is a folder"):
        report.write_report(result.model, tmp_path)


def test_a_record_of_another_kind_is_refused_in_one_line():
    with pytest.raises(pal.InputError, match=r"metrics.json: 'models' must be a JSON object, found list"):
        report.render(record() | {"models": []}, users(), title="t")
    with pytest.raises(pal.InputError, match=r"metrics\.json: its part for 'shots' cannot be read") as caught:
        report.render(record() | {"shots_btl": [{"a": 1}, {"b": 2}]}, users(), title="t")
    assert "\n" not in str(caught.value)
    with pytest.raises(pal.InputError, match="nothing to report"):
        report.render({}, users().clear(), title="t")


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(pal.MissingExtraError, match=r"pip install 'pal-alignment\[report\]'"):
        report.render(record(), users(), title="t")


def test_many_people_make_a_page_of_bearable_size():
    text = report.render(record(), users(n=20_000), title="t")
    assert len(text) < 1_500_000
    assert json.dumps(text)


def test_names_of_shots_do_not_touch():
    assert _plots._apart(np.array([0.0, 1, 2, 5, 10, 20])) == ["0", "1", "2", "5", "10", "20"]
    assert _plots._apart(np.array([0.0, 1, 2, 190, 200])) == ["0", "", "2", "", "200"]
    assert _plots._apart(np.array([0.0, 1, 2, 1000])) == ["0", "", "2", "1000"]
    assert _plots._apart(np.array([0.0])) == ["0"]


@pytest.mark.parametrize(
    ("n", "words"), [(60, "Each prototype is nearest to 30 people"), (61, "nearest to 31 people, proto")]
)
def test_prototypes_nearest_to_as_many_people(n, words):
    weights = np.eye(2)[np.arange(n) % 2]
    assert words in _report_parts.standing(weights)["figures"][1]["finding"]


def test_of_several_prototypes_the_nearest_to_most_and_to_fewest_are_named():
    weights = np.eye(3)[np.repeat([0, 1, 2], [30, 12, 20])]
    words = "Prototype 1 is nearest to most people (30), 2 to fewest (12)"
    assert _report_parts.standing(weights)["figures"][1]["finding"] == words


def test_people_who_came_later_are_counted_among_the_nearest():
    made = record(2)
    cards = _report_parts.opinions(made, np.eye(2)[[0, 0, 0, 1]])["cards"]
    assert [card["n_users"] for card in cards] == ["3", "1"]
    recorded = _report_parts.opinions(made, np.zeros((0, 0)))["cards"]
    assert [card["n_users"] for card in recorded] == [f"{p['n_users']:,}" for p in made["prototypes"]]


def test_names_of_mean_and_worst_tenth_do_not_meet():
    edges, counts = np.linspace(0, 1, 11).tolist(), [0] * 9 + [60]
    for mean, together in ((0.9, False), (0.5, True)):
        svg = _plots.histogram(edges, counts, mean, 0.1 if together else 0.8, "label")
        heights = re.findall(r'<text[^>]*?y="([-.0-9]+)"[^>]*>(?:mean|worst tenth)', svg)
        assert len(heights) == 2, svg
        assert (abs(float(heights[0]) - float(heights[1])) < 1) is together


@pytest.mark.parametrize(
    ("near", "words"),
    [(17, "42% of people stand close to one prototype, 58%"), (1, "Almost nobody is like")],
)
def test_shares_of_people_add_up(near, words):
    weights = np.array([[0.9, 0.05, 0.05]] * near + [[0.5, 0.3, 0.2]] * (40 - near))
    assert _report_parts.standing(weights)["figures"][0]["finding"].startswith(words)
