"""Splits: every row in one part, no group in two, every user in all parts, and leaks told as they are."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pal.comparisons import Comparisons, Parts, split_rows
from pal.errors import InputError

SEEN = ("train", "validation", "test")


def survey(n: int, users: int, items: int, prompts: int = 0, seed: int = 0) -> Comparisons:
    """n answers of random users to random pairs."""
    random = np.random.default_rng(seed)
    left = random.integers(0, items, n)
    right = (left + random.integers(1, items, n)) % items
    return Comparisons.from_columns(
        user_id=random.integers(0, users, n),
        left=[f"r{i}" for i in left],
        right=[f"r{i}" for i in right],
        label=random.integers(0, 2, n),
        prompt=[f"p{i}" for i in random.integers(0, prompts, n)] if prompts else None,
    )


def own_prompts(users: int, per_user: int, seed: int = 0) -> Comparisons:
    """Each answer has a prompt and two responses of its own, as where people chat with a model."""
    n = users * per_user
    number = np.random.default_rng(seed).permutation(n)
    return Comparisons.from_columns(
        user_id=np.repeat(np.arange(users), per_user),
        left=[f"l{i}" for i in number],
        right=[f"r{i}" for i in number],
        label=np.ones(n),
        prompt=[f"p{i}" for i in number],
    )


def groups(found: Comparisons, by: str) -> list[set[Any]]:
    """For each row the things that no other part may hold."""
    if by == "item":
        return [{a, b} for a, b in zip(found.left.tolist(), found.right.tolist(), strict=True)]
    prompts = np.zeros(len(found), int) if found.prompt is None else found.prompt
    if by == "prompt":
        return [{p} for p in prompts.tolist()]
    columns = zip(found.left.tolist(), found.right.tolist(), prompts.tolist(), strict=True)
    asked = [(min(a, b), max(a, b), p) for a, b, p in columns]
    if by == "pair":
        return [{pair} for pair in asked]
    users = found.user.tolist()
    things = {u: {pair for pair, v in zip(asked, users, strict=True) if v == u} for u in set(users)}
    # who is asked the same more than twice on average, or less than three things, is asked again on purpose
    once = {u for u, pairs in things.items() if len(pairs) >= 3 and users.count(u) <= 2 * len(pairs)}
    return [{(pair, u) if u in once else (row, u)} for row, (pair, u) in enumerate(zip(asked, users, strict=True))]


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 120),
    users=st.integers(1, 12),
    items=st.integers(2, 30),
    prompts=st.integers(0, 8),
    unseen=st.sampled_from([0, 0.2, 0.7]),
    test=st.sampled_from([0, 0.1, 0.2, 0.45]),
    validation=st.sampled_from([0, 0.1, 0.45]),
    by=st.sampled_from(["comparison", "pair", "prompt", "item"]),
    seed=st.integers(0, 5),
)
def test_a_split_is_a_partition_that_cuts_no_group(
    n: int, users: int, items: int, prompts: int, unseen: float, test: float, validation: float, by: str, seed: int
) -> None:
    found = survey(n, users, items, prompts, seed)
    try:
        rows = split_rows(found, unseen, test, validation, by, seed)
    except InputError as error:
        if by == "comparison" or not ("needs prompts" in str(error) or "leaves no comparison" in str(error)):
            raise
        return
    assert list(rows) == ["train", "validation", "test", "unseen", "left_out"]
    every = np.concatenate(list(rows.values()))
    np.testing.assert_array_equal(np.sort(every), np.arange(n))
    assert all(np.all(np.diff(index) > 0) for index in rows.values())
    assert by == "item" or not len(rows["left_out"])
    # unseen users have all their rows in one part
    seen = np.concatenate([rows[name] for name in (*SEEN, "left_out")])
    assert not set(found.user[rows["unseen"]]) & set(found.user[seen])
    present = len(np.unique(found.user))
    if unseen and present > 1:
        drawn = len(np.unique(found.user[rows["unseen"]]))
        assert drawn == min(max(1, int(np.floor(unseen * present + 0.5))), present - 1)
    every_row = groups(found, by)
    held = [set().union(*(every_row[row] for row in rows[name])) for name in SEEN]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    if by == "comparison":
        _check_stratified(found, held, test, validation)


def test_few_pairs_that_everybody_is_asked_again_and_again_are_split_by_row():
    """As of three models in an arena: the pairs are known, the answers are what is to be predicted."""
    random = np.random.default_rng(0)
    left = random.integers(0, 3, 400)
    table = Comparisons.from_columns(
        user_id=[f"u{i % 20}" for i in range(400)],
        left_id=[f"x{i}" for i in left],
        right_id=[f"x{(i + 1) % 3}" for i in left],
        label=random.integers(0, 2, 400).astype(float),
    )
    parts = table.split(unseen_users=0.0, test=0.1, validation=0.1)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (320, 40, 40)


def _check_stratified(found: Comparisons, held: list[set[Any]], test: float, validation: float) -> None:
    users = len(found.user_ids)
    counts = {name: np.bincount([u for _, u in asked], minlength=users) for name, asked in zip(SEEN, held, strict=True)}
    total = sum(counts.values())
    shares = {"train": 1 - test - validation, "validation": validation, "test": test}
    wanted = [name for name, share in shares.items() if share > 0]
    for name, share in shares.items():
        if share == 0:
            assert not counts[name].any()
        else:
            assert (counts[name][total >= len(wanted)] >= 1).all()
            # as near the share as whole rows and the other parts' one row allow
            assert (np.abs(counts[name] - share * total)[total >= len(wanted)] < 3).all()
    assert (counts["train"][total > 0] >= 1).all()


@pytest.mark.parametrize("by", ["comparison", "pair", "prompt", "item"])
def test_the_same_seed_gives_the_same_parts(by: str) -> None:
    found = survey(2000, 40, 100, 30) if by != "item" else own_prompts(20, 10)
    once, again, other = (split_rows(found, by=by, seed=seed) for seed in (3, 3, 4))
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
    assert not np.array_equal(once["test"], other["test"])
    assert not np.array_equal(once["unseen"], other["unseen"])


@pytest.mark.parametrize("by", ["comparison", "pair", "prompt", "item"])
def test_shares_hold_and_users_have_all_parts(by: str) -> None:
    """Where groups belong to one user each, splitting by group is as exact as by comparison."""
    found = own_prompts(users=100, per_user=10)
    parts = found.split(unseen_users=0.2, test=0.1, validation=0.1, by=by)
    assert [len(getattr(parts, name)) for name in (*SEEN, "unseen", "left_out")] == [640, 80, 80, 200, 0]
    for name, rows in (("train", 8), ("validation", 1), ("test", 1)):
        counts = getattr(parts, name).user_counts()
        assert set(counts) == {0, rows}
        assert np.count_nonzero(counts) == 80


def test_shares_hold_on_average_for_users_of_few_rows() -> None:
    counts = np.array([len(index) for index in split_rows(own_prompts(2000, 15), 0, 0.1, 0.1).values()])
    assert counts[1] == pytest.approx(3000, rel=0.03)
    assert counts[2] == pytest.approx(3000, rel=0.03)


@pytest.mark.parametrize("by", ["pair", "prompt"])
def test_shared_groups_are_balanced_and_reach_almost_all_users(by: str) -> None:
    found = survey(20_000, 200, 40, 300, seed=1)
    parts = found.split(unseen_users=0.2, test=0.2, validation=0.1, by=by)
    seen = len(found) - len(parts.unseen)
    assert len(parts.test) / seen == pytest.approx(0.2, abs=0.02)
    assert len(parts.validation) / seen == pytest.approx(0.1, abs=0.02)
    assert [getattr(parts, name).n_users for name in SEEN] == [160] * 3


def test_users_of_few_shared_groups_have_all_parts() -> None:
    """Every second person answers the same four pairs: chance would leave many of them without a part."""
    pair = np.tile(np.arange(4), 200) + 4 * np.repeat(np.arange(200) // 2, 4)
    found = Comparisons.from_columns(
        user_id=np.repeat(np.arange(200), 4),
        left=[f"l{i}" for i in pair],
        right=[f"r{i}" for i in pair],
        label=np.ones(800),
    )
    for by in ("pair", "item"):
        parts = found.split(unseen_users=0, test=0.1, validation=0.1, by=by)
        assert [getattr(parts, name).n_users for name in SEEN] == [200] * 3
        assert parts.leakage().shared("train", "test", "pair") == 0


def test_a_large_group_is_not_moved_for_a_few_people() -> None:
    """Ten prompts everybody answers, and one person who answered three of them."""
    user, prompt = np.divmod(np.arange(1000), 10)
    found = Comparisons.from_columns(
        user_id=[*user, 100, 100, 100],
        left=["yes"] * 1003,
        right=["no"] * 1003,
        label=[1] * 1003,
        prompt=[f"p{i}" for i in [*prompt, 0, 1, 2]],
    )
    parts = found.split(unseen_users=0, test=0.1, validation=0.1, by="prompt", seed=1)
    assert 100 <= len(parts.test) <= 101
    assert 100 <= len(parts.validation) <= 101


def test_swapped_sides_are_the_same_pair() -> None:
    found = Comparisons.from_columns(
        user_id=[f"u{i}" for i in range(40)],
        left=["a", "b", "c", "d"] * 10,
        right=["b", "a", "d", "c"] * 10,
        label=[1] * 40,
        prompt=["p"] * 20 + ["q"] * 20,
    )
    parts = found.split(unseen_users=0, test=0.25, validation=0, by="pair")
    assert len(parts.test) == 10
    assert parts.leakage().shared("train", "test", "pair") == 0


def test_by_item_cuts_where_all_hang_together() -> None:
    """Comparisons of two parts' items are in neither; what stays follows the shares."""
    found = survey(20_000, 50, 200, seed=2)
    parts = found.split(unseen_users=0, test=0.2, validation=0.1, by="item")
    kept = len(found) - len(parts.left_out)
    assert kept / len(found) == pytest.approx(0.37, abs=0.03)  # 1 / (sqrt .7 + sqrt .1 + sqrt .2)^2
    assert len(parts.test) / kept == pytest.approx(0.2, abs=0.03)
    assert len(parts.validation) / kept == pytest.approx(0.1, abs=0.03)
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert parts.leakage().shared(a, b, "item") == 0


def test_by_item_loses_nothing_where_a_large_whole_fits_into_train() -> None:
    left = [f"x{i}" for i in range(60)] + [f"a{i}" for i in range(40)]
    right = [f"x{i + 1}" for i in range(60)] + [f"b{i}" for i in range(40)]
    found = Comparisons.from_columns(user_id=list(range(20)) * 5, left=left, right=right, label=[1] * 100)
    parts = found.split(unseen_users=0, test=0.1, validation=0.1, by="item")
    assert len(parts.left_out) == 0
    assert parts.leakage().shared("train", "test", "item") == 0
    assert 5 <= len(parts.test) <= 25


def test_assigned() -> None:
    table = {"user_id": list("aaabbc"), "chosen": list("xxxxxx"), "rejected": list("yyyyyy")}
    names = ["train", "validation", "test", "train", "test", "unseen"]
    found = Comparisons.from_columns(**table, split=names)
    parts = found.split(by="assigned")
    assert [len(getattr(parts, name)) for name in (*SEEN, "unseen", "left_out")] == [2, 1, 2, 1, 0]
    assert parts.test.to_frame()["split"].to_list() == ["test", "test"]
    mixed = Comparisons.from_columns(**table, split=["unseen", *names[1:]])
    with pytest.raises(InputError, match="user 'a' has rows in 'unseen' and in other parts"):
        mixed.split(by="assigned")
    with pytest.raises(InputError, match="by='assigned' needs a column 'split'"):
        Comparisons.from_columns(**table).split(by="assigned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "user"}, "by='user' is not known: use 'comparison', 'pair', 'prompt', 'item' or 'assigned'"),
        ({"test": 1.0}, "test must be a number of at least 0 and below 1, found 1.0"),
        ({"unseen_users": -0.1}, "unseen_users must be a number of at least 0 and below 1, found -0.1"),
        ({"validation": float("nan")}, "validation must be a number of at least 0 and below 1, found nan"),
        (
            {"test": 0.5, "validation": 0.5},
            "test=0.5 and validation=0.5 leave nothing for train: their sum must be below 1",
        ),
        ({"by": "prompt"}, "by='prompt' needs prompts: these comparisons have none"),
        ({"by": "pair"}, "by='pair' leaves no comparison for validation: the pairs are too few or too entangled"),
        ({"by": "item"}, "by='item' leaves no comparison for train"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    found = Comparisons.from_columns(user_id=[1, 2] * 9, left=["a"] * 18, right=["b"] * 18, label=[1] * 18)
    with pytest.raises(InputError) as caught:
        found.split(**arguments)
    assert message in str(caught.value)


def test_a_single_user_is_seen() -> None:
    found = Comparisons.from_columns(user_id=[1] * 10, left=["a"] * 10, right=["b"] * 10, label=[1] * 10)
    assert len(found.split(unseen_users=0.9).unseen) == 0
    assert len(found.take([]).split().train) == 0


def test_leakage_counts_what_parts_share() -> None:
    columns = {"user_id": [1, 2, 3, 1], "left": ["a", "b", "c", "b"], "right": ["b", "a", "d", "a"], "label": [1] * 4}
    found = Comparisons.from_columns(**columns, prompt=["p", "p", "q", "q"])
    index = {"train": [0], "validation": [1, 2], "test": [3], "unseen": [], "left_out": []}
    parts = Parts(**{name: found.take(rows) for name, rows in index.items()})
    leakage = parts.leakage()
    assert leakage.table.columns == ["part_a", "part_b", "what", "shared", "share"]
    assert leakage.table.height == 6 * 5
    shares = {(row[0], row[1], row[2]): row[3:] for row in leakage.table.rows()}
    assert shares["train", "validation", "user"] == (0, 0.0)
    assert shares["train", "validation", "prompt"] == (1, 0.5)
    assert shares["train", "validation", "item"] == (2, 0.5)
    assert shares["train", "validation", "pair"] == (1, 0.5)
    assert shares["train", "validation", "comparison"] == (0, 0.0)
    assert shares["train", "test", "user"] == (1, 1.0)
    assert shares["train", "test", "pair"] == (0, 0.0)  # the same responses to another prompt
    assert leakage.shared("test", "train", "item") == 2
    with pytest.raises(InputError, match="no 'pair' of 'train' and 'nowhere'"):
        leakage.shared("train", "nowhere", "pair")
    text = str(leakage).splitlines()
    assert text[0] == (
        "train and validation share 1 prompt (50.0% of validation), 2 items (50.0% of validation), "
        "1 pair (50.0% of validation)"
    )
    assert text[-1] == "test and unseen share nothing"


def test_leakage_matches_tables_read_apart_by_id() -> None:
    def table(users: list[str], left: list[str]) -> Comparisons:
        n = len(users)
        return Comparisons.from_columns(user_id=users, left=left, right=["z"] * n, label=[1] * n)

    train, test = table(["v", "u"], ["b", "a"]), table(["u"], ["a"])
    parts = Parts(train=train, validation=train.take([]), test=test, unseen=train.take([]), left_out=train.take([]))
    leakage = parts.leakage()
    shared = {what: leakage.shared("train", "test", what) for what in ("user", "item", "pair", "comparison")}
    assert shared == {"user": 1, "item": 2, "pair": 1, "comparison": 1}
    numbers = Comparisons.from_columns(user_id=[1], left=["a"], right=["z"], label=[1])
    with pytest.raises(InputError, match="ids of different types, strings and integers"):
        Parts(**{**parts.__dict__, "test": numbers}).leakage()


def test_leakage_of_what_holds_comparisons() -> None:
    @dataclass
    class Holder:
        comparisons: Comparisons

    found = survey(300, 10, 20)
    rows = split_rows(found)
    parts = Parts(**{name: Holder(found.take(index)) for name, index in rows.items()})
    assert parts.leakage().table.equals(found.split().leakage().table)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(5, 80),
    users=st.integers(1, 6),
    items=st.integers(2, 8),
    prompts=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_leakage_agrees_with_counting(n: int, users: int, items: int, prompts: int, seed: int) -> None:
    found = survey(n, users, items, prompts, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = found.split(unseen_users=0.3, seed=seed)
    leakage = parts.leakage()
    for a, b in (("train", "test"), ("train", "unseen"), ("validation", "test")):
        one, other = getattr(parts, a), getattr(parts, b)
        for what in ("pair", "prompt", "item"):
            if what == "prompt" and not prompts:
                continue
            ours, theirs = groups(one, what), groups(other, what)
            held = set().union(*ours)
            assert leakage.shared(a, b, what) == len(held & set().union(*theirs))
            row = leakage.table.filter(part_a=a, part_b=b, what=what)
            touched = sum(bool(group & held) for group in theirs)
            assert row["share"].item() == pytest.approx(touched / max(len(theirs), 1))
    assert leakage.table.filter(pl.col("what") == "prompt").height == (6 if prompts else 0)
