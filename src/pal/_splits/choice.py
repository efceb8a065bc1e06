"""Which rows train, validate and test."""

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import number, one_of, whole
from pal._tables import PARTS, Items, show
from pal.errors import InputError

__all__ = ["KINDS", "Answers", "asked_again", "choose_rows", "share_apart"]

IntArray = npt.NDArray[np.int32]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int8]
Shares = tuple[float, float, float]  # of train, validation, test
KINDS = ("comparison", "pair", "prompt", "item", "assigned")
_ODD = np.uint64(0x9E3779B97F4A7C15)  # products with it, modulo 2^64, mix the bits of a key
_FEWEST, _OFTEN = 3, 2  # things that one was asked, one for each part; times that one is asked a thing, on average
_TRAIN, _VALIDATION, _TEST, _UNSEEN, _LEFT_OUT = range(5)


class Answers(Protocol):
    """What a split must know of comparisons; `Comparisons` says what each is."""

    @property
    def user(self) -> IntArray: ...
    @property
    def left(self) -> IntArray: ...
    @property
    def right(self) -> IntArray: ...
    @property
    def prompt(self) -> IntArray | None: ...
    @property
    def assigned(self) -> pl.Series | None: ...
    @property
    def user_ids(self) -> pl.Series: ...
    @property
    def responses(self) -> Items: ...
    @property
    def prompts(self) -> Items | None: ...


def choose_rows(
    answers: Answers, unseen_users: float, test: float, validation: float, by: str, seed: int
) -> dict[str, Index]:
    """Rows of each part, ascending; see `Comparisons.split`.

    Returns:
        train, validation, test, unseen and left_out: every row is in exactly one.

    Raises:
        InputError: Shares that leave nothing, an unknown `by`, or a `by` that these comparisons do not allow.
    """
    _check(answers, unseen_users, test, validation, by)
    whole("seed", seed, least=0)
    if by == "assigned":
        return _by_name(_assigned(answers))
    random = np.random.default_rng(seed)
    part = np.full(len(answers.user), _TRAIN, dtype=np.int8)
    part[_unseen_users(answers, unseen_users, random)[answers.user]] = _UNSEEN
    seen = np.flatnonzero(part == _TRAIN)
    shares = (1 - test - validation, validation, test)
    if by == "comparison":
        user, again = answers.user[seen], asked_again(answers, seen)
        part[seen] = _stratify(user, shares, random) if again is None else _by_group(again, user, shares, random)
    elif by == "item":
        part[seen] = _by_item(answers, seen, shares, random)
    else:
        part[seen] = _by_group(_groups(answers, seen, by), answers.user[seen], shares, random)
    for code, share in enumerate(shares):
        if by != "comparison" and share > 0 and len(seen) and not np.any(part == code):
            raise InputError(
                f"by='{by}' leaves no comparison for {PARTS[code]}: the {by}s are too few or too entangled; "
                "split by comparison, or ask for larger shares"
            )
    return _by_name(part)


def _check(answers: Answers, unseen_users: float, test: float, validation: float, by: str) -> None:
    one_of("by", by, KINDS)
    for name, share in (("unseen_users", unseen_users), ("test", test), ("validation", validation)):
        number(name, share, least=0, below=1)
    if test + validation >= 1:
        raise InputError(f"test={test} and validation={validation} leave nothing for train: their sum must be below 1")
    if by == "prompt" and answers.prompt is None:
        raise InputError("by='prompt' needs prompts: these comparisons have none; split by pair or comparison")
    if by == "assigned" and answers.assigned is None:
        raise InputError("by='assigned' needs a column 'split' (train, validation, test, unseen): this table has none")


def _by_name(part: Codes) -> dict[str, Index]:
    names = (*PARTS, "left_out")
    return {name: np.flatnonzero(part == code) for code, name in enumerate(names)}


def _assigned(answers: Answers) -> Codes:
    names = cast(pl.Series, answers.assigned)
    part = names.replace_strict(list(PARTS), list(range(len(PARTS))), return_dtype=pl.Int8).to_numpy()
    seen = np.zeros(len(answers.user_ids), dtype=bool)
    seen[answers.user[part != _UNSEEN]] = True
    both = np.flatnonzero(seen[answers.user] & (part == _UNSEEN))
    if len(both):
        user = answers.user_ids[int(answers.user[both[0]])]
        raise InputError(
            f"user {show(user)} has rows in 'unseen' and in other parts: an unseen user has all in 'unseen'"
        )
    return part


def _unseen_users(answers: Answers, share: float, random: np.random.Generator) -> Mask:
    """(U,) whole users at random; at least one is drawn, and one left, where two have rows."""
    present = np.flatnonzero(np.bincount(answers.user, minlength=len(answers.user_ids)))
    unseen = np.zeros(len(answers.user_ids), dtype=bool)
    if share > 0 and len(present) > 1:
        count = min(max(1, int(np.floor(share * len(present) + 0.5))), len(present) - 1)
        unseen[random.permutation(present)[:count]] = True
    return unseen


def _stratify(user: IntArray, shares: Shares, random: np.random.Generator) -> Codes:
    """(n,) parts such that each user with a row for each has all, as near the shares as whole rows allow.

    Users with fewer rows always keep one in train.
    """
    n_rows = np.bincount(user)
    wanted = sum(share > 0 for share in shares)
    least = (n_rows >= wanted).astype(np.int64)
    quota = {}
    for code in (_VALIDATION, _TEST):
        # random rounding: the shares hold on average also where each user has few rows
        rows = np.floor(n_rows * shares[code] + random.random(len(n_rows))).astype(np.int64)
        quota[code] = np.maximum(rows, least) if shares[code] > 0 else np.zeros_like(rows)
    for code in (_VALIDATION, _TEST):
        over = np.maximum(quota[_VALIDATION] + quota[_TEST] - np.maximum(n_rows - 1, 0), 0)
        quota[code] -= np.minimum(over, np.maximum(quota[code] - least, 0))
    key = (user.astype(np.uint64) << np.uint64(32)) | random.integers(0, 2**32, len(user), dtype=np.uint64)
    order = np.argsort(key, kind="stable")
    del key
    sorted_user = user[order]
    rank = np.arange(len(user)) - (np.cumsum(n_rows) - n_rows)[sorted_user]
    tested, held = quota[_TEST][sorted_user], quota[_VALIDATION][sorted_user]
    part = np.empty(len(user), dtype=np.int8)
    part[order] = np.where(rank < tested, _TEST, np.where(rank < tested + held, _VALIDATION, _TRAIN))
    return part


def asked_again(answers: Answers, rows: Index) -> Index | None:
    """(n,) numbers, from 0 without gaps, that rows share where one person was asked one thing, either way round.

    What somebody said once is known of the second time: parts must not come between. Rows of people who were asked
    less than three things, or each more than twice on average, have numbers of their own: there the same is asked again
    on purpose, as of a few models beside one another. None where all have.
    """
    user, key = answers.user[rows], _asked(answers, rows)
    if pl.Series(key).n_unique() == len(key):
        return None
    asked = _codes(key)
    home = np.empty(int(asked.max()) + 1, dtype=user.dtype)
    home[asked] = user
    things, times = (np.bincount(column, minlength=len(answers.user_ids)) for column in (home, user))
    on_purpose = ((things < _FEWEST) | (times > _OFTEN * things))[user]
    if on_purpose.all():
        return None
    return _codes(np.where(on_purpose, len(home) + np.arange(len(asked)), asked))


def share_apart(answers: Answers) -> float:
    """Of all rows, those to what the same person was asked in another that `asked_again` does not join them to."""
    rows = np.arange(len(answers.user))
    joined = asked_again(answers, rows)
    wholes = len(rows) if joined is None else int(joined.max()) + 1
    return (wholes - pl.Series(_asked(answers, rows)).n_unique()) / max(len(rows), 1)


def _asked(answers: Answers, rows: Index) -> npt.NDArray[np.uint64]:
    """(n,) a key of who was asked what, the same either way round."""
    left, right = answers.left[rows], answers.right[rows]
    columns = [np.minimum(left, right), np.maximum(left, right)]
    key = answers.user[rows].astype(np.uint64)
    for column in columns if answers.prompt is None else [*columns, answers.prompt[rows]]:
        key *= _ODD
        key += column.astype(np.uint64)
    return key


def _groups(answers: Answers, rows: Index, by: str) -> Index:
    """(n,) numbers of the groups that must not be cut, from 0 without gaps."""
    prompt = None if answers.prompt is None else answers.prompt[rows]
    if by == "prompt" and prompt is not None:
        return _codes(prompt.astype(np.int64))
    return _pairs(answers.left[rows], answers.right[rows], prompt)


def _pairs(left: IntArray, right: IntArray, prompt: IntArray | None) -> Index:
    low, high = np.minimum(left, right).astype(np.int64), np.maximum(left, right).astype(np.int64)
    pair = _codes(low * (int(high.max(initial=0)) + 1) + high)
    if prompt is None:
        return pair
    return _codes(pair * (int(prompt.max(initial=0)) + 1) + prompt)


def _codes(key: Index | npt.NDArray[np.uint64]) -> Index:
    # several times as fast as np.unique
    return pl.Series(key).rank("dense").cast(pl.Int64).to_numpy() - 1


def _deal(size: Index, shares: Shares, random: np.random.Generator) -> Codes:
    """(g,) parts of groups: the shares hold among groups of any size, and so for rows too."""
    order = np.lexsort((random.random(len(size)), -size))
    part = np.full(len(size), _TRAIN, dtype=np.int8)
    rest = order
    left_over = 1.0
    for code in (_TEST, _VALIDATION):
        step = min(shares[code] / left_over, 1.0) if left_over > 0 else 0.0
        passed = np.floor(np.arange(len(rest) + 1) * step + random.random())
        drawn = passed[1:] > passed[:-1]
        part[rest[drawn]] = code
        rest, left_over = rest[~drawn], left_over - shares[code]
    return part


def _by_group(group: Index, user: IntArray, shares: Shares, random: np.random.Generator) -> Codes:
    """(n,) parts that cut no group, each user in all parts where the groups allow it."""
    size = np.bincount(group)
    home = np.empty(len(size), dtype=np.int32)
    home[group] = user
    shared = np.zeros(len(size), dtype=bool)
    shared[group[user != home[group]]] = True
    part = np.empty(len(size), dtype=np.int8)
    part[~shared] = _stratify(home[~shared], shares, random)
    part[shared] = _deal(size[shared], shares, random)
    _reach_all_users(part, group, size, user, shares, random)
    return part[group]


def _reach_all_users(
    part: Codes, group: Index, size: Index, user: IntArray, shares: Shares, random: np.random.Generator
) -> None:
    """Moves groups, in place, to parts that some of their users lack.

    A group stays where others would lose a part by its going, where less than a quarter of its rows would gain, and
    where the part would grow beyond a quarter more than a split by comparison gives it.
    """
    wanted = [code for code, share in enumerate(shares) if share > 0]
    n_rows = np.bincount(user)
    key = user.astype(np.int64) * 3 + part[group]
    held = np.bincount(key, minlength=3 * len(n_rows)).reshape(-1, 3)
    lacking = (held[:, wanted] == 0).any(axis=1) & (n_rows >= len(wanted))
    rows = np.flatnonzero(lacking[user])
    key = np.sort(user[rows].astype(np.int64) * len(size) + group[rows])
    distinct = key[np.diff(key, prepend=-1) != 0]
    lacking &= np.bincount(distinct // max(len(size), 1), minlength=len(n_rows)) >= len(wanted)
    own = {code: np.maximum(n_rows * shares[code], n_rows >= len(wanted)).sum() for code in wanted}
    for _ in range(8):
        moved = 0
        lacking &= (held[:, wanted] == 0).any(axis=1)
        rows = rows[lacking[user[rows]]]
        for target in wanted:
            here = rows[held[user[rows], target] == 0]
            gain = np.bincount(group[here], minlength=len(size)) / size
            here = here[(part[group[here]] == held.argmax(axis=1)[user[here]]) & (gain[group[here]] >= 0.25)]
            # ties are drawn by group, so that people who share groups agree on one
            here = here[np.lexsort((random.random(len(size))[group[here]], -gain[group[here]], user[here]))]
            first = np.diff(user[here], prepend=-1) != 0
            chosen = np.unique(group[here[first]])
            chosen = chosen[np.argsort(-gain[chosen], kind="stable")]
            room = 1.25 * own[target] - held[:, target].sum()
            chosen = chosen[np.cumsum(size[chosen]) <= room]
            moved += _move(part, chosen, target, held, group, user)
        if not moved:
            return


def _move(part: Codes, chosen: Index, target: int, held: npt.NDArray[np.int64], group: Index, user: IntArray) -> int:
    """Moves groups to a part, keeping `held` (U, 3) true, but not those that cost a user a part; how many it moved."""
    mark = np.zeros(len(part), dtype=bool)
    mark[chosen] = True
    rows = np.flatnonzero(mark[group])
    old = part[group[rows]]

    def change(some: Mask | slice) -> npt.NDArray[np.int64]:
        place = user[rows[some]].astype(np.int64) * 3
        gone = np.bincount(place + old[some], minlength=held.size)
        return (np.bincount(place + target, minlength=held.size) - gone).reshape(held.shape)

    lost: Mask = np.logical_or.reduce((held > 0) & (held + change(slice(None)) <= 0), axis=1)
    mark[group[rows[lost[user[rows]]]]] = False
    held += change(mark[group[rows]])
    part[mark] = target
    return int(np.count_nonzero(mark))


def _by_item(answers: Answers, rows: Index, shares: Shares, random: np.random.Generator) -> Codes:
    """(n,) parts of which no two share a response; rows between responses of two parts are left out.

    Responses that no chain of comparisons joins go to different parts without loss. Where a joined whole
    is larger than a part should be, it goes to train if the others fill validation and test, and is cut
    otherwise.
    """
    left, right, user = answers.left[rows], answers.right[rows], answers.user[rows]
    whole = _codes(_connected(left, right, len(answers.responses))[left])
    size = np.bincount(whole)
    limit = min((share for share in shares[1:] if share > 0), default=1.0) * len(rows)
    large = (size > limit)[whole]
    small = ~large
    held_out = shares[_VALIDATION] + shares[_TEST]
    free = np.count_nonzero(small)
    fits = free >= held_out * len(rows)
    scale = len(rows) / free if free and fits else 1.0
    scaled = (max(1 - held_out * scale, 0.0), shares[_VALIDATION] * scale, shares[_TEST] * scale)
    part = np.full(len(rows), _TRAIN, dtype=np.int8)
    part[small] = _by_group(_codes(whole[small]), user[small], scaled, random)
    if not fits:
        # both responses of a comparison must fall into one part: a share s of rows needs sqrt(s) of the items
        roots = np.sqrt(shares)
        n_items = len(answers.responses)
        degree = np.bincount(left[large], minlength=n_items) + np.bincount(right[large], minlength=n_items)
        used = np.flatnonzero(degree)
        item = np.full(n_items, _LEFT_OUT, dtype=np.int8)
        item[used] = _deal(degree[used], cast(Shares, tuple(roots / roots.sum())), random)
        one, other = item[left[large]], item[right[large]]
        part[large] = np.where(one == other, one, np.int8(_LEFT_OUT))
    return part


def _connected(left: IntArray, right: IntArray, n_items: int) -> Index:
    """(n_items,) the lowest item that a chain of comparisons joins to each."""
    root = np.arange(n_items)
    while len(left):
        low, high = np.minimum(root[left], root[right]), np.maximum(root[left], root[right])
        apart = low != high
        left, right = left[apart], right[apart]
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(root, root[root]):
            root = root[root]
    return root
