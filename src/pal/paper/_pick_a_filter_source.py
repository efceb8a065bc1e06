"""Answers to filter: who compared which crops and what they preferred, simulated in the shape of Pick-a-Pic v1.

**Counts** follow from two facts of appendix D: of the 468 users in train and in test 234 have more than 50 labels. The
number of answers falls with rank to the power -1.2 through 50.5 between ranks 234 and 235; the power makes the total
and its parts those of Table 3 within 15%. Smaller populations keep the curve's shape. A user has 1.8 sqrt(n) answers in
test (Table 3: 74 of 2,415 on average if seen, 20 of 124 if unseen) and n / 120 in validation. Some users are in train
alone, and a twentieth of the answers more are ties: the builder has to leave them out.

**Preferences** without filters are those of one reward that all share, as Pick-a-Pic's labellers mostly agree: linear
in the encoder's embedding, random in its first 16 principal directions within a picture's crops. Answers are drawn from
its Bradley-Terry model, so noisy that whoever knows the reward is right in 70%: what models reach on Pick-a-Pic v1
(Table 2). The two pictures of a pair are crops of one picture, named in the prompt. Crops of train, validation and test
are different ones.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pal.comparisons import Comparisons
from pal.errors import InputError
from pal.paper._pick_a_filter import SPLITS

__all__ = ["AGREEMENT", "counts", "shared_reward", "simulated"]

Ints = npt.NDArray[np.int64]

POWER, LABELS = 1.2, 50
TRAIN_ALONE, TIES = 0.1, 0.05  # users, of those in both; answers, of those that are no ties
AGREEMENT = 0.7  # of answers with the shared reward
DIRECTIONS = 16
CROPS = (0.7, 0.1, 0.2)  # of each picture, for train, validation and test
TEMPLATES = ("{}", "a picture of {}", "{}, seen closely", "a detail of {}", "{} in good light", "my wallpaper: {}")


def counts(users: int) -> Ints:
    """(2 users,) answers of each user by rank; the first half has more than 50."""
    rank = np.arange(1, 2 * users + 1)
    return np.rint((LABELS + 0.5) * ((users + 0.5) / rank) ** POWER).astype(np.int64)


def simulated(
    captions: tuple[str, ...], family: Ints, reward: npt.NDArray[np.float64], users: int, seed: int
) -> Comparisons:
    """Answers of 2 x users users in train and in test, half of them with more than 50, and of some in train alone.

    Args:
        captions: of the pictures.
        family: (m,) the picture of each crop.
        reward: (m,) of each crop, the same for everybody.
        users: with more than 50 labels.
        seed: of everything random.

    Returns:
        Answers with ids of crops ("0", "1", ...), prompts as texts, and a part each.

    Raises:
        InputError: a picture has too few crops for three parts.
    """
    random = np.random.default_rng([seed, 0x50CE])
    sizes = counts(users)
    alone = random.choice(sizes, int(TRAIN_ALONE * len(sizes)))
    user, split = _who(np.r_[sizes, alone], len(alone))
    ties = random.choice(len(user), int(TIES * len(user)), replace=False)
    tie = np.r_[np.zeros(len(user), np.bool_), np.ones(len(ties), np.bool_)]
    user, split = np.r_[user, user[ties]], np.r_[split, split[ties]]
    picture = random.integers(len(captions), size=len(user))
    left, right = _pairs(family, picture, split, random)
    margin = reward[left] - reward[right]
    likely = 1 / (1 + np.exp(-_sharpness(margin) * margin))
    label = np.where(tie, 0.5, random.random(len(user)) < likely)
    template = random.integers(len(TEMPLATES), size=len(user))
    order = random.permutation(len(user))
    return Comparisons.from_columns(
        user_id=[f"u{row}" for row in user[order]],
        left_id=[str(row) for row in left[order]],
        right_id=[str(row) for row in right[order]],
        label=label[order],
        prompt=[TEMPLATES[t].format(captions[p]) for t, p in zip(template[order], picture[order], strict=True)],
        split=[SPLITS[part] for part in split[order]],
    )


def _who(sizes: Ints, alone: int) -> tuple[Ints, Ints]:
    """User and part of each answer; the last users have none in test."""
    user = np.repeat(np.arange(len(sizes)), sizes)
    test = np.maximum(1, np.rint(1.8 * np.sqrt(sizes))).astype(np.int64)
    test[len(sizes) - alone :] = 0
    validation = sizes // 120
    place = np.concatenate([np.arange(size) for size in sizes])
    split = np.where(place < test[user], 2, np.where(place < (test + validation)[user], 1, 0))
    return user, split


def _pairs(family: Ints, picture: Ints, split: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Two different crops of the picture and part of each answer."""
    left, right = np.zeros_like(picture), np.zeros_like(picture)
    for number in range(int(family.max()) + 1):
        crops = np.flatnonzero(family == number)
        ends = np.rint(np.cumsum((0, *CROPS)) * len(crops)).astype(np.int64)
        for part in range(3):
            rows, pool = np.flatnonzero((picture == number) & (split == part)), crops[ends[part] : ends[part + 1]]
            if len(pool) < 2:
                raise InputError(
                    f"{len(crops)} crops of a picture are too few for train, validation and test: 20 will do"
                )
            one = random.integers(len(pool), size=len(rows))
            other = (one + random.integers(1, len(pool), size=len(rows))) % len(pool)
            left[rows], right[rows] = pool[one], pool[other]
    return left, right


def shared_reward(vectors: npt.NDArray[Any], family: Ints, seed: int) -> npt.NDArray[np.float64]:
    """A random reward of each crop (m,), of unit variance within pictures, from embeddings (m, D)."""
    random = np.random.default_rng([seed, 0x4E3A])
    vectors = vectors.astype(np.float64)
    for number in range(int(family.max()) + 1):
        vectors[family == number] -= vectors[family == number].mean(0)
    directions = np.linalg.svd(vectors, full_matrices=False)[2][:DIRECTIONS]
    scores = vectors @ directions.T
    reward = (scores / scores.std(0)) @ random.normal(size=directions.shape[0])
    return np.asarray(reward / reward.std())


def _sharpness(margin: npt.NDArray[np.float64]) -> float:
    """The slope at which answers agree with the sign of the margin in `AGREEMENT` of the cases."""
    low, high = 0.0, 100.0
    size = np.abs(margin)
    for _ in range(60):
        slope = (low + high) / 2
        low, high = (slope, high) if (1 / (1 + np.exp(-slope * size))).mean() < AGREEMENT else (low, slope)
    return low
