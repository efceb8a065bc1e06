"""Validation answers to questions that no training answer is to: what they tell, and what goes together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import pal
from pal import TrainConfig
from pal._training.alone import Alone
from pal._training.judging import Asked, Judge
from pal._training.tables import Tables
from pal.questions import Answers
from pal.training import chance_groups, model_config
from small import parts_of, votes


def test_answers_to_new_questions_tell_of_the_questions():
    """Of thirty statements validation has six that training has not: they are six facts, not two hundred."""
    losses = []
    for seed in range(3):
        parts = parts_of(votes(60, 30, 15, 1.5, 0.3, seed), unseen_users=0.0, test=0.3, validation=0.2, by="prompt")
        config = TrainConfig(model="b", n_prototypes=(1, 3), map="linear", max_steps=50, seed=seed)
        result = pal.fit(parts.train, parts.validation, config)
        losses.append(pal.evaluate(result.model, parts.test, bootstrap=0).log_loss)
        assert result.model.n_prototypes == 1
    assert np.mean(losses) < 0.70  # .733 were each answer to count; log 2 is .693


@pytest.mark.parametrize(("n", "each", "most"), [(1, 200, 1 / 150), (2, 140, 0.1), (20, 1, 1.0), (20, 30, 0.1)])
def test_answers_to_one_question_count_as_one(n, each, most):
    """All are wrong together; where each question has one answer, answers count as they do."""
    rng = np.random.default_rng(0)
    question = torch.arange(n).repeat_interleave(each)
    answers = Answers(torch.zeros_like(question), question, torch.from_numpy(rng.random(n) < 0.5)[question].float())
    asked = Asked(40, np.arange(n), torch.ones(n, dtype=torch.bool))
    judge = Judge(None, None, 0.0, 1.0, 4.0, asked, Alone())
    margin = torch.from_numpy(rng.standard_normal(n)).float()[question]
    told = judge._told(margin, answers, None)
    assert 0 < told <= most
    assert told == most or each > 1
    known = replace(judge, asked=replace(asked, new=~asked.new))
    assert known._told(margin, answers, None) == 1
    if each > 1:
        slopes = [abs(math.log(j.slope((margin, torch.zeros_like(margin)), answers))) for j in (judge, known)]
        assert slopes[0] < slopes[1]


def test_which_questions_are_new_and_what_chance_moves_together():
    data = votes(30, 20, 9, 1.0, 0.0)
    parts = parts_of(data, unseen_users=0.0, test=0.0, validation=0.4, by="prompt")
    user = parts.validation.comparisons.user

    def tables(train_data, validation, **settings):
        config = TrainConfig(**settings)
        return Tables.of(train_data, validation, model_config(train_data, config, 1), config)

    prompt = parts.validation.comparisons.prompt
    for settings in ({"model": "b"}, {"model": "a", "prompt": "none"}):  # that a model does not see them is no matter
        new = tables(parts.train, parts.validation, **settings)
        asked = Asked.of(new, Alone())
        assert asked.new.all()
        assert asked.n == 20 - len(np.unique(prompt))
        assert asked.share_new(new.val_answers, Alone()) == 1
        groups = chance_groups(new, user)
        assert len(set(zip(groups, prompt, strict=True))) == len(set(groups)) == len(set(prompt))
        score = torch.arange(len(user)).double()
        each, n = np.bincount(prompt, score.numpy()), len(np.unique(prompt))
        expected = np.square(each).sum() * n / (n - 1) * (len(user) - 1) / len(user)
        assert asked.square_sum(score, new.val_answers, Alone()) == pytest.approx(expected)
    table = parts.train.comparisons
    turned = replace(parts.train, comparisons=replace(table, left=table.right, right=table.left, label=1 - table.label))
    old = tables(parts.train, turned, model="b")
    asked = Asked.of(old, Alone())
    assert not asked.new.any()
    score = torch.arange(len(turned)).double()
    assert asked.square_sum(score, old.val_answers, Alone()) == float(score.square().sum())
    assert np.array_equal(chance_groups(old, turned.comparisons.user), turned.comparisons.user)
    weightless = replace(parts.train, comparisons=replace(table, weight=(table.prompt > 3).astype(np.float32)))
    assert Asked.of(tables(weightless, turned, model="b"), Alone()).new.sum() == (np.unique(table.prompt) <= 3).sum()
