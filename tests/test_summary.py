import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import pal
from pal import summary
from pal._opinions import opinions
from pal.embeddings import HashingEncoder

KEYS = {
    "data", "models", "difference", "selection", "shots", "shots_btl", "prototypes", "divisive", "agreed", "people",
    "training", "verdict",
}  # fmt: skip


class Half:
    """A baseline that knows nothing, and cannot learn new users."""

    def __init__(self, ids):
        self.user_ids = ids

    def predict(self, data):
        return np.full(len(data), 0.5, np.float32)


def votes(n_users=40, n_statements=40, seed=0):
    """Two camps that answer every second statement in opposite ways."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), n_statements)
    statement = np.tile(np.arange(n_statements), n_users)
    agree = np.where(statement % 2, user % 2, 1)
    flip = rng.random(len(user)) < 0.5
    return pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user],
        prompt=[f"alpha{s} beta{s} {'divides' if s % 2 else 'unites'}" for s in statement],
        left=np.where(flip, "Disagree", "Agree").tolist(),
        right=np.where(flip, "Agree", "Disagree").tolist(),
        label=np.where(flip, 1 - agree, agree).astype(float).tolist(),
    )


def essays(n_users=20, seed=0):
    """Everybody prefers long answers, whatever the prompt, but for slips."""
    rng = np.random.default_rng(seed)
    rows = [(u, p, *rng.permutation(4)[:2]) for u in range(n_users) for p in range(12)]
    words = ("no", "no idea at all", "a fairly good answer with reasons", "an excellent thorough answer with reasons")
    return pal.Comparisons.from_columns(
        user_id=[u for u, *_ in rows],
        prompt=[f"question {p}" for _, p, *_ in rows],
        left=[words[a] for *_, a, _ in rows],
        right=[words[b] for *_, b in rows],
        label=[float((a > b) != (rng.random() < 0.2)) for *_, a, b in rows],
    )


def fitted(comparisons, k, chosen=None, fit=pal.fit, **split):
    parts = pal.embed(comparisons, encoder=HashingEncoder(dim=64)).split(seed=0, **split)
    config = pal.TrainConfig(model="b", n_prototypes=k, hidden_dim=16, latent_dim=4, max_steps=120, seed=0)
    result = fit(parts.train, parts.validation, config)
    baselines = {"btl": result.models[1], "half": Half(parts.train.comparisons.user_ids.clear())}
    model = result.model if chosen is None else result.models[chosen]
    record = summary.summarise(model, result, parts, baselines, source="test", seed=0, shots=(0, 2, 500))
    return model, record, result


@pytest.fixture(scope="module")
def voted():
    return fitted(votes(), (1, 2), chosen=2)


def test_the_record_is_plain_json_and_complete(voted):
    record = voted[1]
    assert set(record) >= KEYS
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    data = record["data"]
    assert (data["n_comparisons"], data["n_users"], data["n_prompts"], data["n_responses"]) == (1600, 40, 40, 2)
    assert sum(data["split"].values()) == 1600
    assert data["answers_per_user"] == [40.0] * 5
    assert data["n_unseen_users"] == 8
    assert list(record["models"]) == ["pal", "btl", "half"]
    assert record["models"]["half"]["accuracy"] == 0.5
    assert [row["n_prototypes"] for row in record["selection"]] == [1, 2]
    assert record["training"]["n_prototypes"] == 2


def test_votes_are_ranked_by_question_whatever_the_side(voted):
    record = voted[1]
    assert (record["kind"], set(record["answers"])) == ("votes", {"Agree", "Disagree"})
    sign = 1 if record["answers"][0] == "Agree" else -1
    assert all("divides" in item["text"] for item in record["divisive"])
    assert all("unites" in item["text"] and min(sign * v for v in item["values"]) > 0 for item in record["agreed"])
    assert sum(p["n_users"] for p in record["prototypes"]) == 32
    assert sum(p["share"] for p in record["prototypes"]) == pytest.approx(1, abs=1e-5)
    one, other = record["prototypes"]
    assert one["apart"][0]["reward"] * other["apart"][0]["reward"] != 0


def test_a_prototype_is_spoken_for_by_the_people_nearest_it(voted):
    """Not by itself: people between two prototypes may agree on what these are far apart on."""
    model = voted[0]
    between = model.with_users(replace(model.users, weights=0.3 + 0.4 * model.users.weights))
    told = opinions(between, pal.embed(votes(), encoder=HashingEncoder(dim=64)))
    for k, prototype in enumerate(told["prototypes"]):
        mean = between.users.weights[between.users.weights.argmax(1) == k].mean(0)
        for item in prototype["apart"]:
            said = model.reward(weights=mean, prompt=item["text"], responses=told["answers"])
            alone = model.reward(weights=np.eye(2)[k], prompt=item["text"], responses=told["answers"])
            assert item["reward"] == pytest.approx(float(said[0] - said[1]), abs=1e-3)
            assert abs(item["reward"]) < abs(alone[0] - alone[1]) - 0.1


def test_too_many_shots_are_dropped_and_baselines_that_cannot_learn_have_no_curve(voted):
    record = voted[1]
    assert [row["shots"] for row in record["shots"]] == [0, 2]
    assert record["shots"][1]["accuracy_by_user"] > record["shots"][0]["accuracy_by_user"]
    assert len(record["shots_btl"]) == 2


def test_the_verdict_says_how_much_it_helps(voted):
    words = voted[1]["verdict"]
    assert words.startswith("Personalisation helps: two prototypes predict people")
    assert "95% interval" in words
    assert "tenth of people it predicts worst" in words


def test_where_chance_could_do_as_much_it_only_seems_to_help(voted):
    record = voted[1]
    assert summary.headline(record).startswith("Personalisation helps:")
    doubtful = {**record, "training": {**record["training"], "p_value": 0.2}}
    assert summary.headline(doubtful).startswith("Personalisation seems to help:")
    assert "p = 0.200" in summary.verdict(doubtful)


def test_people_are_counted_once(voted):
    people = voted[1]["people"]
    assert sum(people["accuracy_histogram"]["counts"]) == people["n_users"] == 32
    assert people["worst"]["n_users"] == 4
    assert people["worst_tenth"] == pytest.approx(voted[1]["models"]["pal"]["worst_tenth"])


def test_few_answers_that_hint_at_plurality_are_said_to_be_few():
    record = {
        "models": {"pal": {}},
        "prototypes": [{}],
        "data": {"split": {"validation": 73}},
        "selection": [{"n_prototypes": 1, "gain": 0.0}, {"n_prototypes": 3, "gain": 0.1}],
        "training": {"p_value": 0.07, "n_prototypes": 1},
    }
    said = summary.headline(record)
    assert said.startswith("One reward for all was kept, K = 1: 73 validation answers are too few")
    record["models"] = {"pal": {"accuracy_by_user": 0.7, "n_users": 30}}
    for change in ({"data": {"split": {"validation": 5000}}}, {"training": {"p_value": 0.8, "n_prototypes": 1}}):
        assert summary.headline({**record, **change}) == "One reward for all predicts these people as well: K = 1."


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"accuracy_by_user": None, "n_users": 9}, "the answers held out are ties"),
        ({"accuracy_by_user": 1.0, "n_users": 1}, "one person's answers do not tell"),
    ],
)
def test_nothing_is_said_of_people_where_their_answers_say_nothing(measured, words):
    record = {
        "models": {"pal": measured},
        "selection": [{"n_prototypes": 1}, {"n_prototypes": 2}],
        "training": {"p_value": 1.0, "n_prototypes": 1},
    }
    said = summary.verdict(record)
    assert words in said
    assert "plurality test" not in said
    assert "as well" not in said


@pytest.mark.parametrize(
    ("bias", "words"), [(0.4, "the left one is preferred in 59.9%"), (-0.4, "the right one"), (0, "")]
)
def test_a_side_that_people_favour_is_said(bias, words):
    said = summary.verdict({"training": {"n_prototypes": 1, "side_bias": bias}})
    assert words in said
    assert bias or "as good" not in said


def test_a_test_that_was_not_made_is_no_evidence(voted):
    result = voted[2]

    def verdict(p):
        changed = replace(result, metrics={**result.metrics, "p_value": p})
        return fitted(votes(), (1, 2), chosen=2, fit=lambda *_: changed)[1]["verdict"]

    assert "plurality test" not in verdict(float("nan"))
    assert "plurality test" in verdict(0.01)


def test_one_reward_for_all_where_people_agree():
    record = fitted(essays(), (1, 2), chosen=1, unseen_users=0.0)[1]
    assert record["training"]["n_prototypes"] == 1
    assert record["verdict"].startswith("One reward for all predicts these people as well: K = 1.")
    assert record["kind"] == "responses"
    assert record["shots"] == record["divisive"] == record["agreed"] == []
    best, worst = record["prototypes"][0]["likes"][0], record["prototypes"][0]["dislikes"][0]
    assert set(best) == {"text", "prompt", "reward"}
    assert best["reward"] > 0 > worst["reward"]
    assert "reasons" in best["text"]
    assert worst["text"].startswith("no")


def test_no_test_answers_is_said():
    parts = pal.embed(votes(8, 10), encoder=HashingEncoder(dim=64)).split(
        unseen_users=0.0, test=0.0, validation=0.2, seed=0
    )
    result = pal.fit(parts.train, parts.validation, pal.TrainConfig(n_prototypes=2, max_steps=5, map="linear"))
    record = summary.summarise(result.model, result, parts, {}, source="test", seed=0)
    assert record["models"] == record["difference"] == record["people"] == {}
    assert record["verdict"] == "Nothing was measured on answers held out."


def measured(gain, low, high, k=3, **more):
    models = {
        "pal": {"accuracy_by_user": 0.8, "worst_tenth": 0.5},
        "btl": {"accuracy_by_user": 0.8 - gain, "worst_tenth": 0.4},
    }
    return {
        "models": models | more.pop("models", {}),
        "difference": {"btl": {"difference": gain, "low": low, "high": high}} | more.pop("difference", {}),
        "selection": [{"n_prototypes": 1}, {"n_prototypes": k}],
        "training": {"n_prototypes": k},
        **more,
    }


def test_verdicts():
    assert "does not clearly help" in summary.verdict(measured(0.002, -0.01, 0.015))
    assert "hurts: one reward for all predicts people 2.0 points better" in summary.verdict(
        measured(-0.02, -0.03, -0.01)
    )
    groups = [{"gain": {"difference": 0.0, "low": -0.01, "high": 0.01, "n_users": n}} for n in (50, 2)]
    words = summary.verdict(measured(0.05, 0.03, 0.07, prototypes=groups))
    assert "no sure gain for the people nearest prototype 1 (−1.0 to 1.0 points)." in words
    better = {
        "models": {"x": {"accuracy_by_user": 0.9}},
        "difference": {"x": {"difference": -0.1, "low": -0.2, "high": -0.05}},
    }
    assert "But the baseline 'x' predicts better: 90.0%." in summary.verdict(measured(0.05, 0.03, 0.07, **better))


def test_own_vectors_show_ids_and_images_their_path():
    ids = [f"img/{i}.png" for i in range(8)]
    rng = np.random.default_rng(0)
    rows = [(u, *rng.permutation(8)[:2]) for u in range(6) for _ in range(12)]
    comparisons = pal.Comparisons.from_columns(
        user_id=[u for u, *_ in rows],
        left_id=[ids[a] for _, a, _ in rows],
        right_id=[ids[b] for *_, b in rows],
        label=[float(a > b) for _, a, b in rows],
    )
    data = pal.embed(comparisons, embeddings=(ids, rng.normal(size=(8, 4)).astype(np.float32)))
    parts = data.split(unseen_users=0.0, seed=0)
    result = pal.fit(parts.train, parts.validation, pal.TrainConfig(n_prototypes=(1, 2), max_steps=40, map="linear"))
    record = summary.summarise(result.model, result, parts, {"btl": result.models[1]}, source="x", seed=0)
    assert all(item["text"] in ids for item in record["prototypes"][0]["likes"])
    assert record["data"]["encoder"] == "own vectors"


def test_long_texts_are_cut_between_words():
    from pal._opinions import shorten

    assert shorten("a  b\nc", 10) == "a b c"
    assert shorten("word " * 50, 22) == "word word word word…"
    assert len(shorten("x" * 500, 100)) == 100


def test_the_record_survives_the_model_folder(voted, tmp_path):
    model, record, _ = voted
    model.metrics = record
    model.save_pretrained(tmp_path / "m")
    assert pal.RewardModel.from_pretrained(tmp_path / "m").metrics == record
    assert isinstance(model.users.to_frame(), pl.DataFrame)
