from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss

import pal
from pal._measures import expected_calibration_error
from pal.baselines._pooled import Predicted, pooled_calibration
from pal.errors import InputError
from pal.evaluation import metrics_of, paired_difference
from pal.testing import tiny


def arrays(p, y, user=None):
    return np.array(p, dtype=float), np.array(y, dtype=float), np.array(user if user is not None else [0] * len(p))


class Fixed:
    """Predicts what it is told, for users it says it knows."""

    def __init__(self, probability, known=()):
        self.probability, self.user_ids = np.asarray(probability, dtype=np.float32), pl.Series("user_id", list(known))

    def predict(self, data):
        return self.probability[: len(data)]


class Learning:
    """A learner that predicts one half and remembers what it was asked to learn and to predict."""

    user_ids = pl.Series("user_id", [], dtype=pl.String)

    def __init__(self):
        self.learned, self.tested = [], []

    def predict(self, data):
        table = data.comparisons
        rows = zip(table.user, table.left, table.right, strict=True)
        self.tested.append([tuple(map(int, row)) for row in rows])
        return np.full(len(data), 0.6, dtype=np.float32)

    def with_answers(self, few):
        rows = few.comparisons
        self.learned.append(set(zip(rows.user.tolist(), rows.left.tolist(), rows.right.tolist(), strict=True)))
        return self


@pytest.fixture(scope="module")
def fitted():
    parts = pal.simulation.population(n_users=20, per_user=20, dim=4, seed=1).split(seed=1)
    config = pal.TrainConfig(n_prototypes=3, max_steps=60)
    return pal.fit(parts.train, parts.validation, config).model, parts


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_measures_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 200))
    p, user = rng.uniform(0.01, 0.99, n), rng.integers(4, size=n)
    y = (rng.random(n) < 0.7).astype(float)
    y[:2] = 0, 1
    found = metrics_of(p, y, user, bootstrap=0)
    assert found.log_loss == pytest.approx(log_loss(y, p))
    assert found.brier == pytest.approx(brier_score_loss(y, p))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p > 0.5))
    assert found.accuracy == pytest.approx(np.mean((p > 0.5) == y))
    assert found.accuracy_by_user == pytest.approx(
        np.mean([np.mean(((p > 0.5) == y)[user == u]) for u in np.unique(user)])
    )
    assert found.interval == {}


def test_ties_are_left_out_of_accuracies_and_counted():
    p, y, user = arrays([0.9, 0.8, 0.2, 0.7], [1, 0.5, 0.5, 0], [0, 0, 1, 1])
    found = metrics_of(p, y, user)
    assert (found.n, found.n_ties, found.n_users) == (4, 2, 2)
    assert (found.accuracy, found.accuracy_by_user, found.balanced_accuracy) == (0.5, 0.5, 0.5)
    assert found.log_loss == pytest.approx(
        -np.mean([np.log(0.9), np.log(0.8 * 0.2) / 2, np.log(0.2 * 0.8) / 2, np.log(0.3)])
    )
    assert found.brier == pytest.approx(np.mean([0.1**2, 0.3**2, 0.3**2, 0.7**2]))


def test_a_user_of_ties_alone_is_no_accuracy_of_zero():
    found = metrics_of(*arrays([0.9, 0.9, 0.2], [1, 1, 0.5], [0, 0, 1]))
    assert (found.accuracy_by_user, found.worst_tenth, found.n_users) == (1, 1, 2)
    assert found.interval["accuracy_by_user"] == (1, 1)


def test_where_all_are_ties_accuracies_are_none_in_json():
    values = metrics_of(*arrays([0.9, 0.2], [0.5, 0.5], [0, 1])).to_dict()
    assert values["accuracy"] is values["accuracy_by_user"] is values["balanced_accuracy"] is None
    assert values["worst_tenth"] is None
    assert values["log_loss"] > 0
    assert "accuracy" not in values["interval"]


def test_one_half_is_half_right():
    assert metrics_of(*arrays([0.5, 0.5, 0.9, 0.9], [1, 0, 1, 1])).accuracy == 0.75


def test_soft_labels_count_on_the_side_they_lean_to():
    found = metrics_of(*arrays([0.6, 0.6], [0.9, 0.2]))
    assert found.accuracy == 0.5
    assert found.brier == pytest.approx((0.3**2 + 0.4**2) / 2)


def test_predictions_of_zero_and_one_stay_finite():
    assert np.isfinite(metrics_of(*arrays([0, 1], [1, 0])).log_loss)


def test_only_one_side_has_the_accuracy_of_that_side():
    assert metrics_of(*arrays([0.9, 0.2], [1, 1])).balanced_accuracy == 0.5


@pytest.mark.parametrize(("users", "expected"), [(5, 0.0), (20, 0.25), (21, 1 / 3)])
def test_the_worst_tenth_is_the_mean_of_its_users(users, expected):
    # user 0 is never right, user 1 half the time, user 2 too, all others always
    right = np.ones((users, 2))
    right[0], right[1, 0], right[2, 0] = 0, 0, 0
    p = np.where(right.ravel() == 1, 0.9, 0.1)
    found = metrics_of(p, np.ones(2 * users), np.repeat(np.arange(users), 2))
    assert found.worst_tenth == pytest.approx(expected)


def test_calibration_error_by_hand():
    # bins of two: |1/2 - .15| and |1 - .85|
    assert expected_calibration_error(
        np.array([0.9, 0.1, 0.8, 0.2]), np.array([1.0, 0.0, 1.0, 1.0]), bins=2
    ) == pytest.approx((2 * 0.35 + 2 * 0.15) / 4)
    half = np.repeat([1.0, 0.0], 500)  # rows of one probability may stand in any order
    for labels in (half, half[::-1], np.random.default_rng(0).permutation(half)):
        assert expected_calibration_error(np.full(1000, 0.5), labels) == pytest.approx(0)
    assert metrics_of(np.full(100, 0.5), np.ones(100), np.zeros(100), sided=False).ece == pytest.approx(0)
    p = np.full(1000, 0.3)
    y = np.tile([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 100).astype(float)
    assert expected_calibration_error(p, y) == pytest.approx(0)
    assert metrics_of(p + 0.2, y, np.zeros(1000)).ece == pytest.approx(0.2)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(InputError, match=r"must have one shape \(n,\), found \(3,\), \(2,\), \(2,\)"):
        metrics_of([0.1, 0.2, 0.3], [1, 0], [0, 1])
    assert metrics_of([0.9, 0.2], [1, 0], ["a", "b"]).accuracy == 1
    data = tiny()
    model = pal.baselines.fit("majority", data)
    for options in ({"bootstrap": 0}, {"bootstrap": 2.5}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            paired_difference(model, model, data, **options)

    class Nameless:
        def predict(self, data):
            return np.full(len(data), 0.5)

    with pytest.raises(InputError, match="model must be a reward model or a baseline"):
        pal.evaluate(Nameless(), data)


def test_chosen_and_rejected_are_measured_both_ways_round():
    rng = np.random.default_rng(0)
    p, user = rng.uniform(0.02, 0.98, 4000), np.arange(4000) % 40
    right = rng.random(4000) < p
    chosen = np.where(right, p, 1 - p)  # the same answers, the chosen response first
    found = metrics_of(chosen, np.ones(4000), user, sided=False)
    assert found.ece < 0.03 < 0.2 < metrics_of(chosen, np.ones(4000), user).ece
    assert found.balanced_accuracy == found.accuracy
    assert found.n == 4000
    sides = metrics_of(p, right.astype(float), user, sided=False)  # whichever way round they are written
    for name in ("accuracy", "accuracy_by_user", "worst_tenth", "log_loss", "brier", "ece"):
        assert getattr(found, name) == pytest.approx(getattr(sides, name))
    table = tiny(n=80, users=8)
    unsided = replace(table, comparisons=replace(table.comparisons, sided=False))
    same = Fixed(rng.random(80), table.comparisons.user_ids)
    assert (
        pal.evaluate(same, unsided).ece
        == metrics_of(same.probability, table.comparisons.label, table.comparisons.user, sided=False).ece
    )


def test_the_range_of_a_perfect_model_is_drawn_both_ways_round_too():
    rng = np.random.default_rng(1)
    p, user = rng.uniform(0.5, 1, 2000), np.arange(2000) % 20
    chosen = np.where(rng.random(2000) < p, p, 1 - p)
    ece, high = pooled_calibration([Predicted(chosen, np.ones(2000), user, 20, sided=False)])
    assert ece < high < 0.05
    assert pooled_calibration([Predicted(chosen, np.ones(2000), user, 20)])[0] > 0.2


def test_intervals_hold_the_estimates_and_are_seeded():
    rng = np.random.default_rng(0)
    p, user = rng.random(600), np.arange(600) % 30
    y = (rng.random(600) < p).astype(float)
    found = metrics_of(p, y, user, seed=3)
    for name in ("accuracy", "accuracy_by_user", "balanced_accuracy", "worst_tenth", "log_loss", "brier"):
        low, high = found.interval[name]
        assert low < getattr(found, name) < high
    assert metrics_of(p, y, user, seed=3) == found
    assert metrics_of(p, y, user, seed=4).interval != found.interval
    # the width is that of the mean over independent users
    own = np.array([np.mean(((p > 0.5) == y)[user == u]) for u in range(30)])
    low, high = found.interval["accuracy_by_user"]
    assert (high - low) / 2 == pytest.approx(1.96 * own.std() / np.sqrt(30), rel=0.2)


def test_resamples_without_a_decided_answer_do_not_warn():
    found = metrics_of(*arrays([0.9, 0.8, 0.7], [1, 0.5, 0.5], [0, 1, 2]))
    assert found.interval["balanced_accuracy"] == (1, 1)


def test_one_user_has_no_interval():
    assert metrics_of(*arrays([0.9, 0.2], [1, 0])).interval == {}


def test_nothing_to_evaluate_on():
    with pytest.raises(InputError, match="no comparisons"):
        metrics_of(*arrays([], []))
    with pytest.raises(InputError, match="no comparisons"):
        pal.evaluate(Fixed([]), tiny().take(np.array([], dtype=int)))


def test_evaluate_counts_users_it_does_not_know():
    data = tiny(n=80, users=8)
    found = pal.evaluate(Fixed(np.full(80, 0.6), ["u0", "u1", "u2", "stranger"]), data)
    assert (found.n_users, found.n_unseen) == (8, 5)
    some = data.take(data.comparisons.user < 4)
    assert pal.evaluate(Fixed(np.full(80, 0.6), ["u0", "u1", "u2"]), some).n_unseen == 1


def test_predict_keeps_the_order_of_rows(fitted):
    model, parts = fitted
    order = np.random.default_rng(0).permutation(len(parts.test))
    both = pal.predict(model, parts.test), pal.predict(model, parts.test.take(order))
    np.testing.assert_allclose(both[0][order], both[1], rtol=1e-6)


# -- shot curves -----------------------------------------------------------------------------------------------------


def test_every_number_of_shots_is_tested_on_the_same_answers():
    data, model = tiny(n=200, users=8, ties=0), Learning()
    curve = pal.shot_curve(model, data, shots=[5, 0, 2, 2], seeds=2, reserve=10)
    assert curve["shots"].to_list() == [0, 2, 5]
    assert curve["n"].to_list() == [8 * 15] * 3
    assert curve["n_users"].to_list() == [8] * 3
    first, second = model.tested[:3], model.tested[3:]
    assert first[0] == first[1] == first[2]
    assert second[0] == second[1] == second[2] != first[0]
    few, more = model.learned[:2]  # of the first seed
    assert few < more


def test_shots_are_not_tested_on():
    # each user meets each pair once
    n = 66
    data = tiny(n=8 * n, users=8)
    pairs = np.array([(a, b) for a in range(12) for b in range(a)], dtype=np.int32)
    rows = np.arange(8 * n) // 8
    table = pal.Comparisons.from_columns(
        user_id=data.comparisons.user.tolist(),
        left_id=[f"r{a}" for a in pairs[rows, 0]],
        right_id=[f"r{b}" for b in pairs[rows, 1]],
        label=data.comparisons.label.tolist(),
        prompt=["p"] * len(data),
    )
    rng = np.random.default_rng(0)
    ids = [f"r{i}" for i in range(12)]
    embedded = pal.embed(table, embeddings=(ids, rng.normal(size=(12, 3)).astype(np.float32)), prompt_mode="none")
    model = Learning()
    pal.shot_curve(model, embedded, shots=[10], seeds=1)
    assert not model.learned[0] & set(model.tested[0])
    assert len(model.learned[0]) == 80
    assert len(model.tested[0]) == 8 * (n - 10)


def test_users_with_too_few_answers_are_left_out_throughout():
    data = tiny(n=200, users=8)
    keep = (data.comparisons.user < 6) | (np.arange(200) < 80)  # users 6 and 7: ten answers
    curve = pal.shot_curve(Learning(), data.take(keep), shots=[0, 1, 10], seeds=1)
    assert curve["n_users"].to_list() == [6, 6, 6]
    assert curve["n"].to_list() == [6 * 15] * 3


def test_known_users_are_refused(fitted):
    model, parts = fitted
    with pytest.raises(InputError, match="is known to the model: a shot curve is for unseen users"):
        pal.shot_curve(model, parts.test.take(slice(None)), shots=[0])


def test_too_many_shots_is_one_clear_line():
    with pytest.raises(InputError) as error:
        pal.shot_curve(Learning(), tiny(n=80, users=8), shots=[0, 10])
    assert str(error.value) == "no unseen user has more than 10 answers (the most is 10): use fewer shots"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shots": [-1]}, "at least 0"),
        ({"shots": []}, "shots is empty"),
        ({"shots": (n for n in [2, 0.5])}, "shots must be a whole number"),
        ({"shots": 5}, "shots must be a list"),
        ({"seeds": 0}, "seeds must be a whole number of at least 1"),
        ({"shots": [5], "reserve": 3}, "reserve=3 is less"),
    ],
)
def test_impossible_curves(arguments, words):
    with pytest.raises(InputError, match=words):
        pal.shot_curve(Learning(), tiny(), **arguments)


def test_a_predictor_that_cannot_learn_says_so():
    data = tiny()
    fixed = Fixed(np.full(len(data), 0.6), ["stranger"])
    assert len(pal.shot_curve(fixed, data, shots=[0], seeds=1)) == 1
    with pytest.raises(InputError, match="Fixed cannot learn new users"):
        pal.shot_curve(fixed, data, shots=[3], seeds=1)


def test_answers_help_new_users(fitted):
    model, parts = fitted
    curve = pal.shot_curve(model, parts.unseen, shots=[0, 10], seeds=2)
    again = pal.shot_curve(model, parts.unseen, shots=[0, 10], seeds=2)
    assert curve.equals(again)
    assert curve["log_loss"].is_finite().all()
    assert set(curve["accuracy_by_user"].is_between(curve["accuracy_by_user_low"], curve["accuracy_by_user_high"])) == {
        True
    }
    assert len(model.users) == 16  # the model itself learned nobody


# -- differences -----------------------------------------------------------------------------------------------------


def test_paired_difference():
    data = tiny(n=400, users=20, ties=0.1)
    y = data.comparisons.label
    right, wrong = np.where(y > 0.5, 0.9, 0.1), np.where(y > 0.5, 0.1, 0.9)
    assert paired_difference(Fixed(right), Fixed(right), data) == (0, 0, 0)
    assert paired_difference(Fixed(right), Fixed(wrong), data) == (1, 1, 1)
    half = np.where(np.random.default_rng(0).random(400) < 0.3, wrong, right)
    value, low, high = paired_difference(Fixed(right), Fixed(half), data)
    both = pal.evaluate(Fixed(right), data), pal.evaluate(Fixed(half), data)
    assert value == pytest.approx(both[0].accuracy_by_user - both[1].accuracy_by_user)
    assert 0 < low < value < high < 1
    assert paired_difference(Fixed(right), Fixed(half), data, seed=0) == (value, low, high)
    assert paired_difference(Fixed(half), Fixed(right), data)[0] == pytest.approx(-value)


def test_paired_difference_of_ties_alone_is_nothing():
    data = tiny(ties=1.1)
    assert np.isnan(paired_difference(Fixed(np.full(200, 0.6)), Fixed(np.full(200, 0.4)), data)).all()
