"""Linear Bradley-Terry, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import pal._logistic
from pal._logistic import LinearRewards


def asked(seed=0, n=400, dim=12, spectrum=2.0, soft=False):
    """Items whose vectors vary 12^spectrum times as much in some directions as in others, and weighted answers."""
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    scale = np.arange(1, dim + 1) ** -spectrum
    items = random.standard_normal((60, dim)) * scale @ turned
    left = random.integers(0, 60, n)
    right = (left + random.integers(1, 60, n)) % 60
    p = 1 / (1 + np.exp(-(items[left] - items[right]) @ (turned.T / scale @ random.standard_normal(dim))))
    label = p if soft else (random.random(n) < p).astype(float)
    weight = random.random(n).round(1)
    return items, left, right, label, weight


def told(items, left, right, label, weight, dtype=torch.float64):
    columns = (torch.from_numpy(each) for each in (left, right, label, weight))
    return LinearRewards(torch.from_numpy(items).to(dtype), *columns)


def oracle(items, left, right, label, weight, penalty):
    x, n = items[left] - items[right], len(label)
    both = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    both.fit(np.r_[x, x], np.r_[np.ones(n), np.zeros(n)], np.r_[weight * label, weight * (1 - label)])
    return both.coef_[0]


@pytest.mark.parametrize("wide", [pal._logistic._WIDE, 4])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_solutions_are_those_of_another_library(monkeypatch, wide, soft, penalty, seed):
    monkeypatch.setattr(pal._logistic, "_WIDE", wide)
    columns = asked(seed, soft=soft)
    problem, best = told(*columns), oracle(*columns, penalty)

    def objective(theta):
        return problem.loss(theta) * columns[-1].sum() + penalty / 2 * float(theta.square().sum())

    assert objective(problem.solve(penalty)) <= objective(torch.from_numpy(best)) * (1 + 1e-7)
    single = told(*columns, dtype=torch.float32).solve(penalty)
    assert objective(single) <= objective(torch.from_numpy(best)) * (1 + 1e-4)


def test_the_penalty_is_the_best_on_validation():
    items, left, right, label, weight = asked(n=600)
    train, held_out = (told(items, left[at], right[at], label[at], weight[at]) for at in (np.s_[:80], np.s_[80:]))
    losses = {p: held_out.loss(train.solve(p)) for p in (1e-4, 0.01, 1.0, 100.0)}
    assert held_out.loss(train.best_on(held_out, list(losses))) == pytest.approx(min(losses.values()), rel=1e-5)
    assert len({round(loss, 3) for loss in losses.values()}) > 2


def test_cross_validation_finds_the_penalty_that_predicts_best():
    """Of 200 answers to questions with vectors in 48 directions a twentieth as many validation answers know less."""
    behind, chosen = [], []
    for seed in range(8):
        random = np.random.default_rng(seed)
        items, taste = random.standard_normal((60, 48)), random.standard_normal(48) * (0.1, 2.0)[seed % 2]
        left = random.integers(0, 60, 2200)
        right = (left + random.integers(1, 60, 2200)) % 60
        label = (random.random(2200) < 1 / (1 + np.exp(-(items[left] - items[right]) @ taste))).astype(float)
        train, test = (
            told(items, left[at], right[at], label[at], np.ones(2200)[at]) for at in (np.s_[:200], np.s_[200:])
        )
        penalties = [1000.0, 100.0, 10.0, 1.0, 0.1]
        found = train.cross_validated(penalties, torch.from_numpy(random.integers(0, 5, 200)), 5)
        solved = [train.solve(p) for p in penalties]
        behind.append(test.loss(found) - min(test.loss(theta) for theta in solved))
        chosen.append([float((found - theta).norm()) < 1e-3 * float(theta.norm()) for theta in solved].index(True))
    assert np.mean(behind) < 0.01
    assert max(chosen[::2]) < min(chosen[1::2])


def test_answers_to_one_question_count_together():
    items, left, right, label, weight = asked(n=50)
    again = np.random.default_rng(1).integers(0, 50, 300)
    given = (torch.from_numpy(again), torch.from_numpy(label[again]), torch.from_numpy(weight[again]))
    columns = (torch.from_numpy(each) for each in (items, left, right))
    one = LinearRewards.of(*columns, given).solve(0.1)
    each = told(items, left[again], right[again], label[again], weight[again]).solve(0.1)
    torch.testing.assert_close(one, each, rtol=1e-4, atol=1e-4)


def test_some_questions_are_told_as_if_there_were_no_others():
    items, *columns = asked(n=50)
    rows = np.array([3, 4, 8, 20, 49])
    some = told(items, *columns).take(torch.from_numpy(rows))
    assert len(some.items) <= 10
    torch.testing.assert_close(some.solve(1.0), told(items, *(column[rows] for column in columns)).solve(1.0))


def test_items_that_are_all_one_say_nothing():
    items, *columns = asked(n=20)
    assert not told(np.ones_like(items), *columns).solve(1.0).any()
