"""Training and validation answers as tensors."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._training.config import TrainConfig
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import ModelConfig, check_data
from pal.questions import Answers, Questions, tabulate
from pal.users import matched

__all__ = ["Tables", "pick_device"]


@dataclass(frozen=True)
class Tables:
    """Training and validation answers as tensors; users are those of training, validation's matched by id.

    Keys (`Questions.keys`) are of what was asked, the prompt included where a model leaves it out.
    """

    user_ids: pl.Series
    questions: Questions
    answers: Answers
    val_questions: Questions
    val_answers: Answers  # user == len(user_ids): unseen
    keys: npt.NDArray[np.int64]
    val_keys: npt.NDArray[np.int64]
    sided: bool

    @cached_property
    def counts(self) -> Tensor:
        """(N,) training answers of each user, as float32 of at least 1."""
        return torch.bincount(self.answers.user, minlength=len(self.user_ids)).float().clamp(min=1)

    def pooled(self) -> "Tables":
        """The same with one training answer a question: the mean label, weighted by the number of answers."""
        answers, n = self.answers, len(self.questions)
        each = answers.counting
        weight = torch.bincount(answers.question, each, minlength=n)
        asked = weight.nonzero().squeeze(1)
        label = torch.bincount(answers.question, each * answers.label, minlength=n)[asked] / weight[asked]
        weight = weight[asked] / weight[asked].mean()
        return replace(self, answers=Answers(torch.zeros_like(asked), asked, label, weight))

    def balanced(self, count: Callable[[int], int]) -> "Tables":
        """The same with answers weighted so that each user counts once; the weights have a mean of one.

        Args:
            count: how many there are in all processes, of so many here.
        """
        n = len(self.user_ids)
        return replace(
            self, answers=_balanced(self.answers, n, count), val_answers=_balanced(self.val_answers, n, count)
        )

    def fingerprint(self) -> str:
        """A name for what is asked, by its vectors, and for who answered what (hex)."""
        found = hashlib.sha256(repr(self.sided).encode())
        for questions, keys, answers in (
            (self.questions, self.keys, self.answers),
            (self.val_questions, self.val_keys, self.val_answers),
        ):
            told = (questions.left, questions.right, answers.user, answers.question, answers.label, answers.weight)
            for array in (keys, *(None if each is None else each.numpy(force=True) for each in told)):
                found.update(b"-" if array is None else np.ascontiguousarray(array).data)
        return found.hexdigest()[:16]

    def to(self, device: torch.device) -> "Tables":
        """The same on a device."""
        return replace(
            self,
            questions=self.questions.to(device),
            answers=self.answers.to(device),
            val_questions=self.val_questions.to(device),
            val_answers=self.val_answers.to(device),
        )

    @classmethod
    def of(
        cls, data: EmbeddedComparisons, validation: EmbeddedComparisons, shape: ModelConfig, config: TrainConfig
    ) -> "Tables":
        if not len(data):
            raise InputError("there are no training comparisons")
        if data.comparisons.weight is not None and not data.comparisons.weight.any():
            raise InputError("all training comparisons have weight 0: give some of them a positive weight")
        device = pick_device(config.device)
        present, user = np.unique(data.comparisons.user, return_inverse=True)
        ids = data.comparisons.user_ids.gather(present)

        def side(part: EmbeddedComparisons, rows: Any) -> tuple[Questions, Answers, npt.NDArray[np.int64]]:
            check_data(shape, part)
            questions, question = tabulate(part)
            keys = questions.keys()
            if shape.prompt == "concatenate":
                questions = questions.concatenated()
            elif shape.prompt == "none":
                questions = replace(questions, prompts=None, prompt=None)
            weight = None if part.comparisons.weight is None else torch.from_numpy(part.comparisons.weight.copy())
            answers = Answers(
                torch.from_numpy(rows.astype(np.int64)),
                question,
                torch.from_numpy(part.comparisons.label.copy()),
                weight,
            )
            return questions.to(device), answers.to(device), keys

        questions, answers, keys = side(data, user)
        found = matched(validation.comparisons.user_ids, ids, "the training data")
        found = np.where(found < 0, len(ids), found)
        val_questions, val_answers, val_keys = side(validation, found[validation.comparisons.user])
        return cls(ids, questions, answers, val_questions, val_answers, keys, val_keys, data.comparisons.sided)


def _balanced(answers: Answers, n: int, count: Callable[[int], int]) -> Answers:
    """Answers of n users; those of anybody else, who are not told apart, count as answers do on average."""
    known = answers.user < n
    counts = torch.bincount(answers.user, minlength=n + 1)
    each = count(int(known.sum())) / max(1, count(int(counts[:n].count_nonzero())))
    weight = torch.where(known, each / counts.float()[answers.user], 1.0)
    return replace(answers, weight=weight if answers.weight is None else weight * answers.weight)


def pick_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise InputError(f"device={name!r} is not available on this machine: use 'auto'")
    return torch.device(name)
