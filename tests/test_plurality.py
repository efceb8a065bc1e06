from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import pal
from pal import selection
from pal._plurality import Evidence, agreement, gain_of, middle_good, personal_gains, plurality, smallest_good
from pal.testing import tiny
from pal.training import Tabulated, answered_alike
from small import votes


def losses(gains, users=80, answers=6, noise=1.0, seed=0):
    """Losses by K: those of one prototype, and of others that gain so much on it, noise shared by a user's answers."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), answers)
    base = rng.random(len(user))
    made = {1: base}
    for k, gain in gains.items():
        made[k] = base - gain - noise * rng.normal(size=users)[user] - 0.1 * rng.normal(size=len(user))
    return made, user


def test_one_number_of_prototypes_is_the_paired_t_test():
    made, user = losses({3: 0.2})
    by_user = np.bincount(user, weights=made[1] - made[3])
    expected = stats.ttest_1samp(by_user, 0, alternative="greater").pvalue
    assert plurality(made, user) == pytest.approx(expected, abs=0.01)


def test_the_level_holds_whatever_the_number_tried():
    alarms = sum(
        plurality(losses(dict.fromkeys((2, 3, 5, 8), 0.0), seed=seed)[0], losses({})[1]) <= 0.05 for seed in range(200)
    )
    assert alarms <= 20


def test_a_gain_is_found_and_a_loss_is_not():
    made, user = losses({2: -0.2, 3: 0.5})
    assert plurality(made, user) < 0.01
    made, user = losses({2: -0.5, 3: -0.2})
    assert plurality(made, user) > 0.5


def asked(camps, people=60, questions=40, each=14, seed=0):
    """Who answers what, and how: most agree with some questions, and two camps with other ones."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(people), each)
    question = np.concatenate([rng.permutation(questions)[:each] for _ in range(people)])
    side = rng.choice([-1.0, 1.0], people)[user] * rng.choice([-1.0, 1.0], questions)[question]
    margin = rng.normal(size=questions)[question] + camps * side
    return user, question, (rng.random(len(user)) < 1 / (1 + np.exp(-margin))).astype(float)


def test_agreement_of_camps_is_found_and_of_people_alike_is_not():
    assert sum(agreement(*asked(0.0, seed=seed)) <= 0.05 for seed in range(60)) <= 7
    assert sum(agreement(*asked(1.2, seed=seed)) <= 0.05 for seed in range(20)) >= 18


def test_agreement_hangs_on_neither_the_order_of_answers_nor_what_is_answered_alike():
    user, question, label = asked(0.5)
    order = np.random.default_rng(1).permutation(len(user))
    found = agreement(user, question, label)
    assert agreement(user[order], question[order], label[order]) == found
    more = np.r_[user, np.arange(60)], np.r_[question, np.full(60, 99)], np.r_[label, np.ones(60)]
    assert agreement(*more) == pytest.approx(found, abs=0.08)
    assert np.isnan(agreement(np.arange(5), np.arange(5), np.array([0.0, 1, 0, 1, 1]))), "nobody is asked the same"
    assert np.isnan(agreement(np.arange(4), np.repeat([0, 1], 2), np.array([1.0, 1, 0, 0]))), "nobody differs"
    assert np.isnan(agreement(*(np.zeros(0, int) for _ in range(3))))
    one = np.random.default_rng(0).random(300).round()
    assert np.isnan(agreement(np.arange(300), np.arange(300) % 20, one)), "nobody answers two questions"


@pytest.mark.parametrize("turned", [False, True])
def test_who_answers_again_as_before_agrees_with_nobody_else(turned):
    """A quarter of coin flips twice, the same way round or the other."""
    found = []
    for seed in range(20):
        user, question, label = asked(0.0, seed=seed)
        again = np.flatnonzero(np.random.default_rng(seed).random(len(user)) < 0.25)
        rows = np.r_[np.arange(len(user)), again]
        turn = (np.arange(len(rows)) >= len(user)) & turned
        vectors = np.random.default_rng(seed).standard_normal((41, 4)).astype(np.float32)
        ids = [f"x{i}" for i in range(41)]
        item = question[rows]
        sides = [np.array(ids)[side] for side in (np.where(turn, 40, item), np.where(turn, item, 40))]
        table = pal.Comparisons.from_columns(
            user_id=user[rows],
            left_id=sides[0],
            right_id=sides[1],
            label=np.where(turn, 1 - label[rows], label[rows]),
        )
        data = pal.embed(table, embeddings=(ids, vectors))
        tables = Tabulated(data, data.take([])).of(pal.TrainConfig(model="a"))
        assert tables.sided
        found.append(agreement(*answered_alike(tables)))
    assert sum(p <= 0.05 for p in found) <= 3, found


def test_chosen_and_rejected_tell_as_much_of_agreement_as_votes_do():
    data = votes(45, 40, 16, effect=1.0, personal=2.0)
    table = data.comparisons
    no = table.label == 0
    left, right = np.where(no, table.right, table.left), np.where(no, table.left, table.right)
    turned = replace(table, left=left, right=right, label=np.ones_like(table.label), sided=False)
    found = []
    for one in (table, turned):
        parts = replace(data, comparisons=one).split(unseen_users=0.0, test=0.0, validation=0.1, seed=0)
        config = pal.TrainConfig(model="b")
        found.append(agreement(*answered_alike(Tabulated(parts.train, parts.validation).of(config))))
    assert found[0] == found[1] < 0.05


def test_few_answers_show_plurality_that_those_held_out_do_not():
    """Some 70 validation answers of 45 people cannot tell what 650 training answers to the same questions do."""
    found, gained = [], []
    for seed in range(2):
        data = votes(45, 40, 40, effect=1.0, personal=1.5, seed=seed)
        parts = data.split(unseen_users=0.0, test=0.6, validation=0.1, seed=seed)
        result = pal.fit(parts.train, parts.validation, pal.TrainConfig(model="b", n_prototypes=(1, 3), seed=seed))
        found.append(result.p_value)
        ours, pooled = (pal.evaluate(model, parts.test, bootstrap=0) for model in (result.model, result.pooled))
        gained.append(pooled.log_loss - ours.log_loss)
    assert max(found) <= 0.05, found
    assert np.mean(gained) > 0.02, gained


def test_nothing_to_compare_is_no_plurality():
    assert plurality({1: np.zeros(3)}, np.arange(3)) == 1.0
    assert plurality({1: np.zeros(3), 2: np.zeros(3)}, np.arange(3)) == 1.0
    assert plurality({1: np.zeros(0), 2: np.zeros(0)}, np.arange(0)) == 1.0


def test_the_fewest_prototypes_within_a_standard_error():
    made, user = losses({2: 0.5, 3: 0.51, 5: 0.505}, noise=0.0)
    assert smallest_good({**made, 3: made[2] - 0.001}, user) in (2, 3)
    made[3] = made[2] + 0.001 * np.random.default_rng(0).normal(size=len(user))
    assert smallest_good({k: made[k] for k in (1, 2, 3)}, user) == 2


def test_of_numbers_that_cannot_be_told_apart_the_middle_of_the_valley():
    user, rng = np.repeat(np.arange(100), 10), np.random.default_rng(0)

    def around(**means):
        noise = {k: rng.normal(size=len(user)) for k in means}
        return {int(k[1:]): mean + 0.2 * (noise[k] - noise[k].mean()) for k, mean in means.items()}

    valley = around(k2=0.5, k3=0.400, k5=0.402, k8=0.401, k12=0.45)
    assert middle_good(valley, user) == 5
    assert smallest_good(valley, user) == 3
    cliff = around(k2=0.5, k3=0.400, k4=0.42, k5=0.43)  # its neighbours' loss speaks against 3, but 4 is surely worse
    assert middle_good(cliff, user) == 3
    assert middle_good({2: valley[2]}, user) == 2


def test_errors_of_one_person_go_together():
    user = np.repeat(np.arange(50), 10)
    shared = np.random.default_rng(0).normal(size=50)[user]
    assert gain_of(shared, user).error == pytest.approx(shared.std() / np.sqrt(50), rel=0.01)


@pytest.mark.parametrize(("kind", "plural"), [("partition", True), ("homogeneous", False)])
def test_select_tells_plural_people_from_others(kind, plural):
    data = pal.simulation.population("a", n_users=40, n_prototypes=2, dim=4, per_user=40, kind=kind, noise=0.3).data
    config = pal.TrainConfig(map="linear", latent_dim=4, max_steps=100)
    choice = pal.select(data, [1, 2], config, folds=2)
    assert (choice.n_prototypes > 1) == plural == (choice.p_value <= 0.05)
    assert choice.table["n_prototypes"].to_list() == [1, 2]
    assert choice.table["chosen"].sum() == 1
    assert choice.n == len(data)
    assert ("There is plurality" if plural else "No plurality") in choice.verdict


def test_people_who_agree_are_plural_though_held_out_answers_do_not_show_it(monkeypatch):
    data = pal.simulation.population("a", n_users=30, dim=4, per_user=12, kind="homogeneous").data
    monkeypatch.setattr(selection, "agreement", lambda *_: 0.01)
    choice = pal.select(data, [1, 2], pal.TrainConfig(map="linear", latent_dim=4, max_steps=20), folds=2)
    assert choice.p_value == 0.02
    assert choice.n_prototypes == 1  # more of them would be of no use
    assert "asked the same, some agree with one another more than chance would have it (p = 0.020)" in choice.verdict
    assert "held-out answers are predicted as well by one reward for all" in choice.verdict


def test_what_held_out_answers_say_by_themselves_is_said():
    rows = [{"personal_gain": 0.0}, {"n_prototypes": 2, "personal_gain": 0.0123}]
    both = selection._verdict(rows, Evidence(0.001, 0.0025), 2, 50)
    assert "predicted better than with weights shared by all, by 0.012 nats an answer with 2 prototypes" in both
    hardly = selection._verdict(rows, Evidence(0.03, 0.0025), 2, 50)
    assert "more than chance would have it (p = 0.005)" in hardly
    assert "by 0.012 nats an answer with 2 prototypes (p = 0.030 by themselves); 2 are enough" in hardly
    none = selection._verdict(rows, Evidence(0.2, 0.3), 1, 50)
    assert none.startswith("No plurality found among 50 people (p = 0.400): what weights of their own gain")
    rows[1]["personal_gain"] = -0.01
    assert "are predicted as well by one reward for all" in selection._verdict(rows, Evidence(1.0), 1, 50)


def test_answers_given_twice_are_not_held_out_by_themselves():
    """All alike; each answer stands in two rows, one of which would tell the other."""
    random = np.random.default_rng(2)
    user, statements = np.repeat(np.arange(40), 15), random.standard_normal((40, 16))
    asked = np.concatenate([random.permutation(40)[:15] for _ in range(40)])
    odds = statements[asked] @ random.standard_normal(16) / 4
    said = (random.random(len(user)) < 1 / (1 + np.exp(-odds))).astype(float)
    table = pal.Comparisons.from_columns(
        user_id=[f"u{i}" for i in user] * 2,
        prompt_id=[f"q{i}" for i in asked] * 2,
        left_id=["yes"] * 1200,
        right_id=["no"] * 1200,
        label=np.tile(said, 2),
    )
    ids = [*(f"q{i}" for i in range(40)), "yes", "no"]
    vectors = np.concatenate([statements, random.standard_normal((2, 16))]).astype(np.float32)
    data = pal.embed(table, embeddings=(ids, vectors))
    config = pal.TrainConfig(model="b", n_prototypes=(1, 3), map="linear", latent_dim=8, max_steps=80)
    found = [pal.fit(data, None, config).p_value, pal.select(data, (1, 3), config, folds=2).p_value]
    assert min(found) > 0.2


def test_select_takes_numbers_in_any_form():
    data = pal.simulation.population("a", n_users=10, dim=4, per_user=12).data
    quick = pal.TrainConfig(init="random", max_steps=20, latent_dim=4)
    for asked in (2, [2], (1, 2), np.array([2])):
        assert pal.select(data, asked, quick, folds=2).table["n_prototypes"].to_list() == [1, 2]
    for nothing in ([1], 1):
        with pytest.raises(pal.InputError, match="nothing to choose"):
            pal.select(data, nothing, quick)
    with pytest.raises(pal.InputError, match="n_prototypes is empty"):
        pal.select(data, [], quick)


def test_the_gain_that_is_said_is_the_one_that_is_tested():
    """A larger map that is better for all alike is no plurality: the gain over one prototype is, by own weights not."""
    user = np.repeat(np.arange(50), 4)
    pooled, many = np.full(200, 0.6), np.full(200, 0.5)
    personal = personal_gains({1: pooled, 3: many}, {1: pooled, 3: many})
    assert personal[3].tolist() == [0.0] * 200
    assert plurality({1: pooled, 3: many}, user, 0, {1: pooled, 3: many}) == 1.0
    assert personal_gains({1: pooled, 3: many})[3].tolist() == pytest.approx([0.1] * 200)


def test_select_refuses_what_it_cannot_do():
    data = tiny(30, users=30)
    with pytest.raises(pal.InputError, match="folds must be a whole number of at least 2"):
        pal.select(data, folds=1)
    with pytest.raises(pal.InputError, match="too few"):
        pal.select(data.take(np.arange(2)), [1, 2], folds=5)
    with pytest.raises(pal.InputError, match="no user has more than one answer"):
        pal.select(data.take(np.unique(data.comparisons.user, return_index=True)[1]), [1, 2])


def test_rounding_is_no_plurality():
    """All of 20 people gain a little, but no more than a float32 probability may be off by."""
    made, user = losses({}, users=20)
    sure = np.abs(np.random.default_rng(0).normal(size=len(user))) * 1e-7
    assert plurality({**made, 3: made[1] - sure}, user) == 1.0
    assert plurality({**made, 3: made[1] - 1e4 * sure}, user) < 0.01


def test_numbers_that_lose_are_among_those_tried():
    """What was tried in vain makes a gain by chance likelier all the same."""
    made, user = losses({3: 0.35}, users=30, seed=1)
    alone = plurality(made, user)
    tried = {k: losses({k: -0.2}, users=30, seed=k)[0] for k in (5, 8, 12, 16, 24)}
    lost = {k: made[1] - found[1] + found[k] for k, found in tried.items()}
    assert all(made[1].mean() < loss.mean() for loss in lost.values())
    assert 0 < 1.5 * alone < plurality({**made, **lost}, user) < 0.5
