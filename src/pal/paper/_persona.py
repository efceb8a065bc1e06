"""People simulated from persona statements (paper, E.2.1, E.5), held so compactly that 60 million answers fit.

A person has one persona and says yes to its statements, no to all others. So a person's answers are the numbers of the
statements they were asked, (U, n) int16, and nothing else: labels follow from the persona. People are drawn once for
each K*; fewer answers a person are the first columns of the same draw, and every model is tested on the same cells.

The paper does not say what a new pair of a seen user is: a statement that this person was not asked (``unseen="pair"``,
as people are many and statements few), or one that nobody was asked in training (``unseen="statement"``).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from pal._training.tables import Tables
from pal.embeddings import EmbeddedComparisons
from pal.paper._statements import Statements
from pal.questions import Answers

__all__ = ["TESTED", "Cohort", "draw"]

IntArray = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

TESTED = 20  # answers of a person to test on, and as many to validate on
_BLOCK = 4096  # people drawn at once


@dataclass(frozen=True, eq=False)
class Cohort:
    """People and what each was asked.

    Attributes:
        statements: what can be asked.
        persona: (U,) of each person.
        asked: (U, 2 TESTED + n) statements: first those to test on, then to validate on, then to learn from.
        prefix: of the people's ids; cohorts of other prefixes are other people.
    """

    statements: Statements
    persona: npt.NDArray[np.int64]
    asked: IntArray
    prefix: str

    @cached_property
    def ids(self) -> pl.Series:
        """(U,) ids."""
        return pl.Series("user_id", [f"{self.prefix}-{row}" for row in range(len(self.persona))])

    def labels(self, columns: slice) -> BoolArray:
        """(U, c) answers to some of what was asked: True is yes."""
        return self.statements.says[self.persona[:, None], self.asked[:, columns]]

    def learned_from(self, answers: int) -> slice:
        """The columns of the first so many answers to learn from."""
        return slice(2 * TESTED, 2 * TESTED + answers)

    def comparisons(self, columns: slice) -> EmbeddedComparisons:
        """Some of the answers as comparisons of "Yes" (left) and "No"."""
        asked, probe = self.asked[:, columns], self.statements.probe
        count = asked.size
        table = replace(
            probe.comparisons,
            user=np.repeat(np.arange(len(asked), dtype=np.int32), asked.shape[1]),
            left=np.zeros(count, np.int32),
            right=np.ones(count, np.int32),
            prompt=asked.reshape(-1).astype(np.int32),
            label=self.labels(columns).reshape(-1).astype(np.float32),
            user_ids=self.ids,
        )
        return replace(probe, comparisons=table)

    @property
    def test(self) -> EmbeddedComparisons:
        """What models are tested on."""
        return self.comparisons(slice(TESTED))

    def tables(self, answers: int) -> Tables:
        """Training and validation answers as `pal.training` works on them, 20 bytes each."""
        questions = self.statements.questions
        keys = questions.keys()
        return Tables(
            self.ids,
            questions,
            self._answers(self.learned_from(answers)),
            questions,
            self._answers(slice(TESTED, 2 * TESTED)),
            keys,
            keys,
            sided=True,
        )

    def _answers(self, columns: slice) -> Answers:
        asked = self.asked[:, columns]
        people = torch.arange(len(asked))
        return Answers(
            people.repeat_interleave(asked.shape[1]),
            torch.from_numpy(asked.astype(np.int64).reshape(-1)),
            torch.from_numpy(self.labels(columns).astype(np.float32).reshape(-1)),
        )

    def oracle(self, answers: int) -> FloatArray:
        """P(yes) (U x TESTED,) for someone who knows every persona's answers, and `answers` of each person's.

        No model can do better: what is left open is which persona a person has.
        """
        says, few = self.statements.says, self.learned_from(answers)
        fits = np.stack([(says[k][self.asked[:, few]] == self.labels(few)).all(1) for k in range(len(says))], axis=1)
        share = fits / fits.sum(1, keepdims=True)
        tested = says[:, self.asked[:, :TESTED]].astype(np.float32)
        p: FloatArray = np.einsum("uk,kut->ut", share, tested).reshape(-1).astype(np.float32)
        return p


def draw(
    statements: Statements, people: int, answers: int, seed: int, prefix: str = "seen", unseen: str = "pair"
) -> Cohort:
    """Draws people, evenly of each persona, and what each is asked, nothing twice.

    Args:
        statements: what can be asked.
        people: of each persona.
        answers: of each, to learn from; `2 * TESTED` more to validate and test on.
        seed: of the draw; another prefix is another draw.
        prefix: of the ids.
        unseen: "pair": people are tested on statements that they were not asked; "statement": on a tenth of the
            statements that nobody was asked.
    """
    key = [seed, *prefix.encode()]
    pool: IntArray = np.random.default_rng(seed).permutation(statements.pool)
    cut = max(TESTED, len(pool) // 10) if unseen == "statement" else 0
    held, open_to_all = pool[:cut], pool[cut:]
    total = len(statements.says) * people
    wanted = min(answers, len(open_to_all) - 2 * TESTED)
    asked = np.empty((total, 2 * TESTED + wanted), np.int16)
    for low in range(0, total, _BLOCK):
        block = slice(low, min(low + _BLOCK, total))
        rows = block.stop - low
        # a stream a block: fewer answers are the first of more
        asked[block] = _without_repeats(np.random.default_rng([low, *key]), open_to_all, rows, asked.shape[1])
        if cut:
            asked[block, :TESTED] = _without_repeats(np.random.default_rng([1, low, *key]), held, rows, TESTED)
    persona = np.repeat(np.arange(len(statements.says)), people)
    return Cohort(statements, persona, asked, prefix)


def _without_repeats(random: np.random.Generator, pool: npt.NDArray[np.int16], people: int, count: int) -> IntArray:
    """(people, count) different entries of the pool for each: the first steps of a Fisher-Yates shuffle."""
    decks = np.repeat(pool[:, None], people, axis=1)
    everyone = np.arange(people)
    for step in range(count):
        other = random.integers(step, len(pool), people)
        drawn = decks[other, everyone]
        decks[other, everyone] = decks[step]
        decks[step] = drawn
    return decks[:count].T
