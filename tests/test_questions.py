from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pal.questions import Answers, compact, tabulate
from pal.testing import tiny


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=60))))
def test_compact_is_numpys_unique(case):
    size, values = case
    rows = torch.tensor(values, dtype=torch.long)
    distinct, inverse = compact(rows, size)
    expected, expected_inverse = np.unique(np.array(values, dtype=np.int64), return_inverse=True)
    assert distinct.tolist() == expected.tolist()
    assert inverse.tolist() == expected_inverse.tolist()


def test_compact_of_a_full_table_is_the_rows():
    rows = torch.tensor([2, 0, 1, 1])
    distinct, inverse = compact(rows, 3)
    assert distinct.tolist() == [0, 1, 2]
    assert inverse is rows


def asked(questions):
    """What each question is about: vectors of prompt, left and right."""
    items = questions.items()
    parts = [items[questions.left], items[questions.right]]
    if questions.prompt is not None:
        parts.append(questions.prompts[questions.prompt])
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("prompts", [0, 5])
def test_a_table_asks_what_its_rows_ask(prompts):
    data = tiny(prompts=prompts)
    questions, rows = tabulate(data)
    table = data.comparisons
    parts = [data.responses[table.left], data.responses[table.right]]
    keys = [table.left, table.right]
    if prompts:
        parts.append(data.prompts[table.prompt])
        keys.append(table.prompt)
    np.testing.assert_array_equal(asked(questions)[rows].numpy(), np.concatenate(parts, axis=1))
    assert len(questions) == len(np.unique(np.stack(keys), axis=1).T) == len(rows.unique())
    assert (questions.prompt is None) == (prompts == 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.sampled_from([0, 5]), st.booleans())
def test_taking_keeps_what_is_asked(picked, prompts, joined):
    questions, _ = tabulate(tiny(prompts=prompts))
    if joined:
        questions = questions.concatenated()
    rows = torch.tensor(picked) % len(questions)
    taken = questions.take(rows)
    assert len(taken) == len(rows)
    assert torch.equal(asked(taken), asked(questions)[rows])
    assert taken.n_items == len(torch.cat([questions.left[rows], questions.right[rows]]).unique())
    assert taken.items().shape[0] == taken.n_items


def test_concatenated_items_are_a_response_with_its_prompt():
    data = tiny()
    plain, _ = tabulate(data)
    joined = plain.concatenated()
    width = data.responses.shape[1]
    assert joined.items().shape[1] == width + data.prompts.shape[1]
    for side in ("left", "right"):
        items = joined.items()[getattr(joined, side)]
        assert torch.equal(items[:, :width], plain.responses[getattr(plain, side)])
        assert torch.equal(items[:, width:], plain.prompts[plain.prompt])
    assert len(joined.items()) == len(joined.items().unique(dim=0))
    without, _ = tabulate(tiny(prompts=0))
    assert without.concatenated() is without


def test_moving_and_taking_answers():
    questions, rows = tabulate(tiny())
    moved = questions.to(torch.device("cpu"))
    assert torch.equal(asked(moved), asked(questions))
    n = len(rows)
    for weight in (None, torch.arange(n).float()):
        answers = Answers(torch.arange(n), rows, torch.ones(n), weight)
        some = answers.take(torch.tensor([3, 1])).to(torch.device("cpu"))
        assert len(some) == 2
        assert some.user.tolist() == [3, 1]
        assert torch.equal(some.question, rows[[3, 1]])
        assert (some.weight is None) if weight is None else some.weight.tolist() == [3, 1]


@pytest.mark.parametrize("prompts", [0, 3])
def test_keys_tell_questions_apart_whatever_the_vectors_hold(prompts):
    """Of one-hot vectors e1 + e4 is as long as e2 + e3; sides exchanged are the same question."""
    data = tiny(600, responses=20, prompts=prompts, dim=20)
    data = replace(data, responses=np.eye(20, dtype=np.float32))
    table = data.comparisons
    keys = tabulate(data)[0].keys()[tabulate(data)[1].numpy()]
    prompt = np.zeros(len(table), int) if table.prompt is None else table.prompt
    low, high = np.minimum(table.left, table.right), np.maximum(table.left, table.right)
    assert len(np.unique(keys)) == len(set(zip(low, high, prompt, keys, strict=True)))
    assert len(np.unique(keys)) == len(set(zip(low, high, prompt, strict=True)))
