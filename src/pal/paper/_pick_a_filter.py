"""Pick-a-Filter (appendix D): people who compare pictures become two groups, one for cold, one for warm pictures.

Any table of pairs of pictures with users will do: `user_id`, `left`, `right`, `label` (or `chosen`, `rejected`) and
`split` (train, validation, test), with pictures as paths or bytes; `prompt` is kept. The steps of the appendix:

1. Only answers that are no ties; only users with answers in train and in test and with more than 50 in all.
2. Users in the order of their number of answers, dealt in turn to group 1 (cold) and group 2 (warm); one too many is
   left out. The first 50 of all are seen.
3. In each user's part of each split a share beta of the pairs is drawn. Of these, half have their winner in the
   group's colour, the other half have their loser in the other group's. All other pictures stay as they are.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._vectors.encoders import open_image
from pal.comparisons import Comparisons
from pal.errors import EncoderError, InputError

__all__ = ["COLOURS", "SPLITS", "PickAFilter", "build", "painted", "read"]

SPLITS = ("train", "validation", "test")
COLOURS = {"cold": (0, 0, 255), "warm": (255, 0, 0)}  # of group 1 and of group 2
STRENGTH = 0.25  # of the colour in a filtered picture; the paper does not say
_FORMS = (".parquet", ".jsonl", ".csv")

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PickAFilter:
    """The filtered data set, as a plan: which pictures of which pairs are painted, and how.

    Attributes:
        comparisons: the n answers that are kept, with their original pictures.
        group: (n,) 0 for cold, 1 for warm: what the user prefers.
        seen: (n,) whether the user is one of the first.
        split: (n,) "train", "validation" or "test".
        left: (n,) colour of the left picture: "", "cold" or "warm".
        right: (n,) of the right one.
        steps: name -> users or answers left after each step, in order.
    """

    comparisons: Comparisons
    group: Ints
    seen: Bools
    split: npt.NDArray[np.str_]
    left: npt.NDArray[np.str_]
    right: npt.NDArray[np.str_]
    steps: dict[str, int]

    @property
    def filtered(self) -> Bools:
        """(n,) whether one of the two pictures is painted."""
        return np.asarray((self.left != "") | (self.right != ""))

    @property
    def winner(self) -> Bools:
        """(n,) whether the painted picture is the preferred one."""
        return np.asarray(np.where(self.comparisons.label > 0.5, self.left != "", self.right != ""))

    def rows(self, split: str, seen: bool) -> Ints:
        """Rows of one part."""
        return np.flatnonzero((self.split == split) & (self.seen == seen))

    def counts(self) -> pl.DataFrame:
        """Table 3: group (1, 2), seen, split, users, n, filtered, and winner (how many filtered are winners)."""
        table = pl.DataFrame(
            {
                "group": self.group + 1,
                "seen": self.seen,
                "split": self.split,
                "user": self.comparisons.user,
                "filtered": self.filtered,
                "winner": self.winner,
            }
        )
        return (
            table.group_by("group", "seen", "split")
            .agg(pl.col("user").n_unique().alias("users"), pl.len().alias("n"), pl.col("filtered", "winner").sum())
            .sort("group", "seen", "split", descending=[False, True, True])
        )

    def names(self) -> tuple[list[str], list[str]]:
        """(n,), (n,): the id of each left and right picture, "|cold" or "|warm" behind it where it is painted."""
        ids = self.comparisons.responses.ids.cast(pl.String)
        return (
            _named(ids.gather(self.comparisons.left), self.left),
            _named(ids.gather(self.comparisons.right), self.right),
        )

    def frame(self) -> pl.DataFrame:
        """The data set as a table with the bytes of every picture, which `Comparisons.from_frame` takes.

        Raises:
            InputError: the pictures are ids alone.
            EncoderError: a picture that cannot be read.
        """
        contents = self.comparisons.responses.contents
        if contents is None or self.comparisons.responses.kind != "image":
            raise InputError("these pictures are ids or texts: give a table with paths (images=True) or bytes")
        made: dict[tuple[int, str], bytes] = {}

        def picture(row: int, colour: str) -> bytes:
            if (row, colour) not in made:
                content = contents[row]
                made[row, colour] = painted(content, colour) if colour else _bytes(content)
            return made[row, colour]

        table = self.comparisons
        columns: dict[str, Any] = {"user_id": table.user_ids.gather(table.user)}
        if table.prompts is not None and table.prompt is not None:
            name = "prompt_id" if table.prompts.kind == "id" else "prompt"
            columns[name] = table.prompts.ids.gather(table.prompt)
        for name, rows, colours in (("left", table.left, self.left), ("right", table.right, self.right)):
            found = [picture(int(row), str(colour)) for row, colour in zip(rows, colours, strict=True)]
            columns[name] = pl.Series(found, dtype=pl.Binary)
        columns |= {"label": table.label, "split": self.split, "group": self.group + 1, "seen": self.seen}
        return pl.DataFrame({name: pl.Series(values).alias(name) for name, values in columns.items()})


def read(path: str | Path) -> Comparisons:
    """Pairs of pictures: a table, or a folder with one table in it and pictures beside it.

    Raises:
        InputError: no table, several, or one that cannot be used.
    """
    path = Path(path)
    if not path.is_dir():
        return Comparisons.read(path, images=True)
    found = sorted(file for file in path.iterdir() if file.suffix in _FORMS)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path} must hold one table ({', '.join(_FORMS)}), found {names}: name the one to read")
    return Comparisons.read(found[0], images=True)


def build(comparisons: Comparisons, beta: float, seed: int = 0, *, labels: int = 50, seen: int = 50) -> PickAFilter:
    """Builds the data set of a mixture ratio. With the same seed, what a lower ratio filters a higher one does too.

    Args:
        comparisons: with a part (train, validation, test) for each answer; other parts are left out.
        beta: share of filtered pairs, 0 to 1.
        seed: of the pairs that are drawn.
        labels: users must have more answers than these.
        seen: users with the most answers, of both groups together.

    Raises:
        InputError: a share that is none, no parts, or too few users.
    """
    if not 0 <= beta <= 1:
        raise InputError(f"beta must be from 0 to 1, found {beta}")
    if comparisons.assigned is None:
        raise InputError("Pick-a-Filter needs a column 'split' that says train, validation or test")
    parts = comparisons.assigned.cast(pl.String).to_numpy().astype(np.str_)
    decided = np.isin(comparisons.label, (0, 1)) & np.isin(parts, SPLITS)
    user = comparisons.user
    n_users = len(comparisons.user_ids)
    total = np.bincount(user[decided], minlength=n_users)
    both = np.ones(n_users, np.bool_)
    for part in ("train", "test"):
        both &= np.bincount(user[decided & (parts == part)], minlength=n_users) > 0
    enough = both & (total > labels)
    order = np.argsort(-total, kind="stable")
    order = order[enough[order]]
    order = order[: len(order) // 2 * 2]
    if len(order) <= seen or seen < 2:
        raise InputError(
            f"{len(order)} users in two equal groups have more than {labels} answers, some in train and some in test: "
            f"more than seen = {seen} (at least 2) are needed"
        )
    place = np.full(n_users, -1)
    place[order] = np.arange(len(order))
    kept = np.flatnonzero(decided & (place[user] >= 0))
    table = replace(comparisons.take(kept), assigned=None)
    rank, split = place[table.user], parts[kept]
    chosen, winner = _drawn(table.user, split, beta, seed)
    group = rank % 2
    # a painted winner is in the colour of its group, a painted loser in the other one
    colour = np.where(chosen, np.array(list(COLOURS))[np.where(winner, group, 1 - group)], "")
    on_left = (table.label > 0.5) == winner
    return PickAFilter(
        comparisons=table,
        group=group,
        seen=rank < seen,
        split=split,
        left=np.where(on_left, colour, ""),
        right=np.where(on_left, "", colour),
        steps={
            "answers": len(comparisons),
            "answers without ties": int(decided.sum()),
            "users": int((total > 0).sum()),
            "users in train and test": int(both.sum()),
            f"users with more than {labels} answers": int(enough.sum()),
            "users in each group": len(order) // 2,
            "users seen": seen,
            "users unseen": len(order) - seen,
            "answers kept": len(table),
        },
    )


def painted(content: str | bytes, colour: str, strength: float = STRENGTH) -> bytes:
    """A picture (path or bytes of a file) blended with a colour of `COLOURS`, as a PNG file of the same size.

    Raises:
        EncoderError: a picture that cannot be read.
    """
    image = open_image(content)
    from PIL import Image  # after open_image, which says what to install

    out = io.BytesIO()
    Image.blend(image, Image.new("RGB", image.size, COLOURS[colour]), strength).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _drawn(user: Ints, split: npt.NDArray[np.str_], beta: float, seed: int) -> tuple[Bools, Bools]:
    """(n,), (n,): whether a pair is filtered, and whether at its winner; shares hold in each user's part of a split."""
    random = np.random.default_rng([seed, 0xF117E2])
    key = np.unique(np.column_stack([user, np.unique(split, return_inverse=True)[1]]), axis=0, return_inverse=True)[1]
    order = np.lexsort((random.random(len(user)), key))
    size = np.bincount(key)
    first = np.cumsum(size) - size
    place = np.empty(len(user), np.int64)
    place[order] = np.arange(len(user)) - np.repeat(first, size)
    # rounded up or down at random, so that small parts have the share on average
    chosen = place < np.floor(beta * size + random.random(len(size)))[key]
    # every other one of a random order: half of however many are filtered
    winner = (place + random.integers(2, size=len(size))[key]) % 2 == 0
    return chosen, winner


def _named(ids: pl.Series, colours: npt.NDArray[np.str_]) -> list[str]:
    return [f"{one}|{colour}" if colour else str(one) for one, colour in zip(ids, colours, strict=True)]


def _bytes(content: str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return Path(content).read_bytes()
    except OSError as error:
        raise EncoderError(f"image {content!r} cannot be read: {error.strerror}") from error
