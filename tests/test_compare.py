"""Models on the same splits, with intervals and paired differences."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import pal
from pal.baselines._pooled import Predicted, pooled_calibration, pooled_difference, pooled_intervals
from pal.testing import tiny
from pal.training import TrainConfig
from truths import factors, low_rank, simulated

QUICK = TrainConfig(max_steps=40, batch_size=64)


def test_without_a_validation_part_peers_hold_one_out_as_pal_does():
    data, _, _ = simulated(low_rank, per_user=40)
    config = TrainConfig(n_prototypes=2, max_steps=300)
    (row,) = pal.baselines.compare(data, ["lore"], config, seeds=1, shots=[], validation=0)
    parts = data.split(unseen_users=0.2, test=0.2, validation=0, seed=0)
    model = pal.baselines.fit("lore", parts.train, None, config)
    assert row["accuracy_by_user"] == pytest.approx(pal.evaluate(model, parts.test).accuracy_by_user)


def test_one_person_has_no_interval():
    data, _, _ = simulated(factors, users=1, per_user=60)
    parts = data.split(unseen_users=0.0, test=0.3, validation=0.1)
    models = [pal.baselines.fit(name, parts.train, parts.validation, QUICK) for name in ("majority", "btl-linear")]
    difference, low, high = pal.evaluation.paired_difference(*models, parts.test)
    assert np.isfinite(difference)
    assert np.isnan([low, high]).all()
    predicted = [
        [Predicted(pal.predict(m, parts.test), parts.test.comparisons.label, parts.test.comparisons.user, 1)]
        for m in models
    ]
    pooled, low, high = pooled_difference(*predicted)
    assert pooled == pytest.approx(difference)
    assert np.isnan([low, high]).all()


def compared(**values):
    return pal.baselines.compare(tiny(400), ["majority", "btl-linear", "per-user"], seeds=2, shots=[0, 5], **values)


def test_compare_on_prompts_that_no_model_has_learned_from():
    data = tiny(400)
    (row,) = pal.baselines.compare(data, ["btl-linear"], seeds=1, shots=[0], by="prompt")
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, by="prompt", seed=0)
    model = pal.baselines.fit("btl-linear", parts.train, parts.validation, TrainConfig())
    assert row["accuracy_by_user"] == pytest.approx(pal.evaluate(model, parts.test).accuracy_by_user)
    with pytest.raises(pal.InputError, match="by"):
        pal.baselines.compare(data, ["btl-linear"], seeds=1, by="colour")


def test_compare_has_intervals_and_paired_differences():
    rows = {row["model"]: row for row in compared()}
    assert list(rows) == ["majority", "btl-linear", "per-user"]
    for row in rows.values():
        low, high = row["interval"]
        assert low <= row["accuracy_by_user"] <= high
        assert row["intervals"]["accuracy_by_user"] == row["interval"]
        assert {"worst_tenth", "log_loss", "accuracy"} <= set(row["intervals"])
        low, high = row["intervals"]["shots_5"]
        assert low <= row["shots_5"] <= high
        assert len(row["by_seed"]) == 2
        mean, low, high = row["difference"]
        assert low <= mean <= high
        assert mean == pytest.approx(rows["per-user"]["accuracy_by_user"] - row["accuracy_by_user"])
        assert row["rise"]["shots_0"] == [0, 0, 0]
        mean, low, high = row["rise"]["shots_5"]
        assert low <= mean <= high
        assert mean == pytest.approx(row["shots_5"] - row["shots_0"])
        assert row["new_difference"]["shots_5"][0] == pytest.approx(rows["per-user"]["shots_5"] - row["shots_5"])
        assert row["calibration"]["seen"][0] == pytest.approx(row["ece"])
    assert rows["per-user"]["difference"] == [0, 0, 0]
    other = {row["model"]: row for row in compared(reference="majority")}
    assert other["majority"]["difference"] == [0, 0, 0]
    assert other["per-user"]["difference"][0] == pytest.approx(-rows["majority"]["difference"][0])


@pytest.mark.slow
def test_compare_in_processes_is_compare_in_one():
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert drop(compared(workers=2)) == drop(compared())


@pytest.mark.parametrize("values", [{"reference": "lore"}, {"reference": "oracle"}, {"workers": 0}, {"draws": 0}])
def test_compare_refuses(values):
    with pytest.raises(pal.InputError):
        compared(**values)


def test_a_person_of_several_draws_has_the_mean_of_all_their_answers():
    data = tiny(400)
    (once,), (often,) = (
        pal.baselines.compare(data, ["per-user"], seeds=1, shots=[0, 5], draws=draws) for draws in (1, 3)
    )
    parts = data.split(unseen_users=0.2, test=0.2, validation=0.1, seed=0)
    model = pal.baselines.fit("per-user", parts.train, parts.validation, pal.TrainConfig(), seed=0)
    rights: dict[int, list[bool]] = {}
    for _, n, test, knowing in pal.evaluation.shot_models(model, parts.unseen, [0, 5], 3, None):
        if n == 5:
            p = pal.predict(knowing, test)
            for user, label, each in zip(test.comparisons.user, test.comparisons.label, p, strict=True):
                if label != 0.5:
                    rights.setdefault(user, []).append((each > 0.5) == (label > 0.5))
    assert often["shots_5"] == pytest.approx(np.mean([np.mean(each) for each in rights.values()]))
    assert often["shots_5"] != once["shots_5"]
    assert often["calibration"] == once["calibration"]  # of the first draw
    assert often["accuracy_by_user"] == once["accuracy_by_user"]


def test_compare_leaves_out_shots_that_nobody_has():
    rows = pal.baselines.compare(tiny(80), ["majority"], seeds=1, shots=[500])
    assert rows[0]["shots_500"] is None
    assert "shots_500" not in rows[0]["intervals"]


def test_compare_tests_many_shots_on_those_who_have_them():
    rows = pal.baselines.compare(tiny(800), ["per-user"], seeds=1, shots=[0, 5, 20], reserve=10)
    assert {"shots_0", "shots_5", "long_0", "long_5", "long_20"} <= set(rows[0])
    assert "shots_20" not in rows[0]
    assert {"long_20", "shots_5"} <= set(rows[0]["rise"])


def test_compare_takes_the_model_that_a_fit_takes(monkeypatch):
    config = pal.TrainConfig(n_prototypes=1, max_steps=10)
    names = ["pal", "pal-a", "pal-b"]
    asked = []
    module = sys.modules["pal.baselines.compare"]
    fit = module.fit_pal
    monkeypatch.setattr(
        module, "fit_pal", lambda train, val, config: asked.append(config.model) or fit(train, val, config)
    )
    for model in (None, "b"):
        pal.baselines.compare(tiny(80), names, config=replace(config, model=model), seeds=1, shots=[0])
    assert asked == [None, "a", "b", "b", "a", "b"]


def test_the_order_of_shots_does_not_matter_and_names_may_be_any_iterable():
    one, other = (
        pal.baselines.compare(tiny(400), names, seeds=2, shots=shots)[0]
        for names, shots in ((["per-user"], (0, 5)), ((name for name in ["per-user"]), (5, 0)))
    )
    assert one["rise"] == other["rise"]
    assert list(one["rise"]) == ["shots_0", "shots_5"]
    assert one["rise"]["shots_0"][0] == 0


def test_compare_without_a_number_of_shots_that_all_have_tests_those_who_have_them():
    rows = pal.baselines.compare(tiny(800), ["majority"], seeds=1, shots=(n for n in [5, 20]), reserve=2)
    assert {"long_5", "long_20"} <= set(rows[0])
    assert not [key for key in rows[0] if key.startswith("shots_")]


@pytest.mark.parametrize("bad", ["a", -1, 2.5])
def test_compare_refuses_bad_shots_before_it_fits(bad, monkeypatch):
    monkeypatch.setattr(sys.modules["pal.baselines.compare"], "_run", None)
    with pytest.raises(pal.InputError, match="shots must be a whole number of at least 0"):
        pal.baselines.compare(tiny(80), ["majority"], shots=[bad])


def test_calibration_knows_how_far_chance_takes_a_perfect_model():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    perfect = Predicted(p, (rng.random(500) < p).astype(float), np.zeros(500, dtype=int), 1)
    ece, bound = pooled_calibration([perfect])
    assert ece < bound < 0.1
    sharp = replace(perfect, probability=np.where(p > 0.5, 0.99, 0.01))
    ece, bound = pooled_calibration([sharp])
    assert ece > 0.1 > bound


def test_clusters_widen_the_interval_of_repeated_people():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 20)
    skill = rng.random(50)[user]
    label = np.ones(1000)
    splits = [Predicted(np.where(rng.random(1000) < skill, 0.9, 0.1), label, user, 50) for _ in range(4)]
    apart = [replace(split, user=user + 50 * i, n_users=200) for i, split in enumerate(splits)]
    widths = [np.subtract(*pooled_intervals(s)["accuracy_by_user"][::-1]) for s in (splits, apart)]
    assert widths[0] > 1.5 * widths[1]
    half = [replace(split, probability=np.full(1000, 0.5)) for split in splits]
    mean, low, high = pooled_difference(splits, half)
    assert low < mean < high
    assert mean == pytest.approx(np.mean([s.accuracy().mean() for s in splits]) - 0.5)
