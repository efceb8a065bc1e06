"""The statements of persona files (paper, E.2.1, E.5), and who says yes to which.

The paper does not say which statements a person is asked. Readings:

- ``"own"``: those of all K* personas that somebody has, what a persona would say and what it would not, half each. A
  share of 1 / (2 K*) of the answers is yes.
- ``"said"``: only those that one of the K* personas would say, S(rho); a share of 1 / K* is yes.
- ``"all"``: those of all six personas; 1 / 12 is yes.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pal import datasets
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, embed
from pal.errors import InputError
from pal.paper._data import data_folder
from pal.questions import Questions, tabulate

__all__ = ["ENCODER", "MADE", "PERSONAS", "READINGS", "Statements", "source_here"]

IntArray = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]

PERSONAS = ("art", "literature", "math", "music", "science", "sports")  # Table 5: its row for K takes the first K
READINGS = ("own", "said", "all")
ENCODER = "all-MiniLM-L6-v2"
MADE = "made here"  # statements that are random vectors, near their topic and stance, where the files are absent
_EACH = 1000  # statements in the file of a persona
_DIM = 48  # of the vectors of statements made here


@dataclass(frozen=True, eq=False)
class Statements:
    """What can be asked, and who says yes.

    Attributes:
        probe: (K* P rows) one person of each persona answering every statement; holds the vectors.
        says: (K*, P) whether persona k says yes to statement p.
        source: the encoder, or `MADE`.
    """

    probe: EmbeddedComparisons
    says: BoolArray
    source: str

    @classmethod
    @lru_cache(maxsize=2)
    def of(cls, k_star: int, reading: str = "own", source: str = ENCODER, each: int = _EACH) -> "Statements":
        """The statements of the first K* personas of Table 5.

        Args:
            k_star: K*.
            reading: "own", "said" or "all".
            source: `source_here()`, or what it may be: the encoder of the statements of the files, or `MADE`.
            each: so many statements of each persona.
        """
        topics = len(PERSONAS) if reading == "all" else k_star
        if source == MADE:
            whole = _made(k_star, topics, each)
        else:
            table = datasets.persona(_folder(), k_star, 1, _EACH * topics, 0, "all" if reading == "all" else "own")
            some = np.flatnonzero(_prompts(table) % _EACH < each)  # files alternate between yes and no
            whole = embed(table.take(some).compact(), source, store=True)
        table, prompt = whole.comparisons, _prompts(whole.comparisons)
        says = np.zeros((k_star, int(prompt.max()) + 1), np.bool_)
        says[table.user, prompt] = table.label > 0.5
        if reading == "said":
            whole = whole.take(np.flatnonzero(says.max(0)[prompt]))
        return cls(whole, says, source)

    @cached_property
    def pool(self) -> IntArray:
        """Statements that are asked at all."""
        return np.unique(_prompts(self.probe.comparisons)).astype(np.int16)

    @cached_property
    def questions(self) -> Questions:
        """One a statement: question p is statement p, asked or not."""
        questions, _ = tabulate(self.probe)
        prompt = torch.arange(self.says.shape[1])
        zero = torch.zeros_like(prompt)
        return replace(questions, left=zero, right=zero + 1, prompt=prompt)


def _made(k_star: int, topics: int, each: int) -> EmbeddedComparisons:
    """Statements made here: a random direction for each topic, another for agreeing with it, and noise."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(2, len(PERSONAS), _DIM))
    answers = random.normal(size=(2, _DIM)) / np.sqrt(_DIM)
    topic, place = np.divmod(np.arange(topics * each), each)
    agrees = place % 2 == 1
    x = directions[0, topic] + np.where(agrees, 1, -1)[:, None] * directions[1, topic]
    x += 0.7 * random.normal(size=x.shape)
    persona, statement = np.divmod(np.arange(k_star * len(topic)), len(topic))
    label = (topic[statement] == persona) & agrees[statement]
    table = Comparisons.from_columns(
        user_id=[PERSONAS[row] for row in persona],
        prompt_id=[f"statement-{row}" for row in statement],
        left_id=["Yes"] * len(label),
        right_id=["No"] * len(label),
        label=label.astype(np.float32),
    )
    vectors = np.concatenate([answers, x / np.linalg.norm(x, axis=1, keepdims=True)]).astype(np.float32)
    ids = ["Yes", "No", *(f"statement-{row}" for row in range(len(topic)))]
    return embed(table, embeddings=(ids, vectors))


def _prompts(table: Comparisons) -> npt.NDArray[np.int32]:
    if table.prompt is None:
        raise TypeError("persona statements are prompts")
    return table.prompt


def _folder() -> Path:
    folder = data_folder("persona")
    if folder is None:
        raise InputError("the persona files are not here: put them in $PAL_DATA/persona")
    return folder


def source_here() -> str:
    """`ENCODER` where the persona files are, else `MADE`."""
    return MADE if data_folder("persona") is None else ENCODER
