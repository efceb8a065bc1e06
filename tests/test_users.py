import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pal.errors import InputError, UnknownUserError
from pal.testing import user_ids
from pal.users import UserWeights, rows_of


def weights(ids, k=3, seed=0, dtype=pl.String):
    rng = np.random.default_rng(seed)
    n = len(ids)
    return UserWeights(
        pl.Series("user_id", list(ids), dtype=dtype),
        torch.tensor(rng.dirichlet(np.ones(k), n).reshape(n, k), dtype=torch.float32),
        torch.arange(n) + 1,
        torch.ones(n),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(user_ids, min_size=1, max_size=20, unique=True), st.data())
def test_every_id_is_found_at_its_row(ids, data):
    users = weights(ids)
    asked = data.draw(st.lists(st.sampled_from(ids) | user_ids, max_size=20))
    expected = [ids.index(name) if name in ids else -1 for name in asked]
    assert users.rows(pl.Series(asked, dtype=pl.String)).tolist() == expected
    for name in asked:
        if name in ids:
            assert users.row(name) == ids.index(name)
        else:
            with pytest.raises(UnknownUserError):
                users.row(name)


@settings(deadline=None, max_examples=50)
@given(st.lists(user_ids, max_size=12, unique=True), st.lists(user_ids, max_size=12, unique=True))
def test_merged_holds_both_and_the_other_counts(mine, theirs):
    a, b = weights(mine, seed=1), weights(theirs, seed=2)
    both = a.merged(b)
    assert sorted(both.ids.to_list()) == sorted({*mine, *theirs})
    for name in theirs:
        assert torch.equal(both.weights[both.row(name)], b.weights[b.row(name)])
        assert both.n_comparisons[both.row(name)] == b.n_comparisons[b.row(name)]
    for name in set(mine) - set(theirs):
        assert torch.equal(both.weights[both.row(name)], a.weights[a.row(name)])


@settings(deadline=None, max_examples=50)
@given(st.lists(user_ids, max_size=12, unique=True), st.booleans())
def test_a_frame_and_back(ids, reliable):
    users = weights(ids)
    if reliable and ids:
        users.reliability.mul_(2)
    frame = users.to_frame()
    assert ("reliability" in frame.columns) == bool(reliable and ids)
    again = UserWeights.from_frame(frame, 3)
    assert again.ids.to_list() == ids
    for name in ("weights", "n_comparisons", "reliability"):
        assert torch.equal(getattr(again, name), getattr(users, name))


def test_one_and_the_text_one_are_different_people():
    numbers, texts = weights([1, 2], dtype=pl.Int64), weights(["1", "2"])
    assert rows_of(pl.Series(["1"]), numbers.ids).tolist() == [-1]
    assert numbers.row(2) == texts.row("2") == 1
    for users, name in ((numbers, "1"), (texts, 1), (numbers, True), (numbers, 2**70)):
        with pytest.raises(UnknownUserError, match=r"is unseen: call pal\.adapt"):
            users.row(name)
    with pytest.raises(InputError, match="user ids are Int64 in the model and String here: use one type"):
        numbers.merged(texts)


def test_without():
    users = weights(["a", "b", "c"])
    left = users.without(["b", "b"])
    assert left.ids.to_list() == ["a", "c"]
    assert torch.equal(left.weights, users.weights[[0, 2]])
    assert len(users.without(["a", "b", "c"])) == 0
    assert len(users.without([])) == 3
    assert users.without(name for name in ("b", "a")).ids.to_list() == ["c"]
    assert users.without({"b", "a"}).ids.to_list() == ["c"]
    with pytest.raises(UnknownUserError, match="user 'd' is not known"):
        users.without(["a", "d"])


def test_one_id_is_not_a_list_of_ids():
    users = UserWeights.none(2, pl.Series("user_id", ["a", "b"]))
    for one in ("a", 3, None):
        with pytest.raises(InputError, match="must be a list of ids"):
            users.without(one)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop("weights"), r"no column 'weights' \(found: user_id, n_comparisons\)"),
        (lambda frame: frame.with_columns(weights=pl.lit([1.0])), "weights must be lists of 3 numbers"),
        (lambda frame: frame.with_columns(weights=pl.lit("x")), "weights must be lists of 3 numbers"),
    ],
)
def test_frames_that_are_no_users(change, words):
    with pytest.raises(InputError, match=words):
        UserWeights.from_frame(change(weights(["a", "b"]).to_frame()), 3)


def test_none():
    nobody = UserWeights.none(4)
    assert len(nobody) == 0
    assert nobody.weights.shape == (0, 4)
    assert UserWeights.none(2, pl.Series("user_id", [1])).ids.dtype == pl.Int64
    some = weights(["a"], 4)
    assert nobody.merged(some) is some
    assert some.merged(nobody) is some
    assert len(UserWeights.from_frame(nobody.to_frame(), 4)) == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weights": torch.ones(2)}, r"weights must be float32 \(2, K\), found \(2,\)"),
        ({"weights": torch.ones(3, 2)}, "weights must be float32"),
        ({"weights": torch.ones(2, 2).double()}, "weights must be float32"),
        ({"weights": torch.full((2, 2), torch.nan)}, "finite"),
        ({"n_comparisons": torch.ones(3).long()}, "one value a user, 2"),
        ({"reliability": torch.ones(1)}, "one value a user, 2"),
    ],
)
def test_tables_that_do_not_fit(changed, words):
    fine = {"weights": torch.ones(2, 2) / 2, "n_comparisons": torch.ones(2).long(), "reliability": torch.ones(2)}
    with pytest.raises(InputError, match=words):
        UserWeights(pl.Series("user_id", ["a", "b"]), **{**fine, **changed})
