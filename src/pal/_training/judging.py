"""How well people's weights predict validation answers, and the slope of the sigmoid that does it best."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._training.alone import Alone
from pal._training.tables import Tables
from pal.losses import moderated
from pal.model import margin_moments
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import UserWeights

__all__ = ["Asked", "Judge", "mean_of"]

_LEAST = 4  # rounds in which what moderates margins settles
_MOST, _SETTLED = 20, 1e-3  # the same where some questions are new


@dataclass(frozen=True)
class Asked:
    """Which validation questions training answers were to.

    Attributes:
        n: training questions of all processes.
        keys: (V,) of the validation questions, see `Questions.keys`.
        new: (V,) whether no training answer, of any process, is to this one.
    """

    n: int
    keys: npt.NDArray[np.int64]
    new: Tensor

    @classmethod
    def of(cls, tables: Tables, shards: Alone) -> "Asked":
        """What the tables say of it; answers that count nothing are none."""
        answers = tables.answers.to(torch.device("cpu"))
        counts = torch.bincount(answers.question, answers.counting, minlength=len(tables.keys)).numpy()
        asked = np.unique(np.concatenate(shards.gathered(np.unique(tables.keys[counts > 0]))))
        return cls(len(asked), tables.val_keys, torch.from_numpy(~np.isin(tables.val_keys, asked)))

    def share_new(self, answers: Answers, shards: Alone) -> float:
        """Of validation answers, those to new questions."""
        count = answers.counting.double()
        new, total = shards.total(torch.stack([count[self.new[answers.question]].sum(), count.sum()]))
        return float(new / total) if total else 0.0

    def square_sum(self, score: Tensor, answers: Answers, shards: Alone) -> float:
        """An estimate of the variance of the sum of scores (n,): those of answers to one new question go together."""
        new = self.new[answers.question]
        parts = shards.gathered((self.keys[answers.question[new].numpy()], score[new].numpy()))
        keys, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        known = float(shards.total(score[~new].square().sum()))
        questions, place = np.unique(keys, return_inverse=True)
        if len(questions) < 2:  # at the best slope a sum over all of them is nothing
            return known + float(np.abs(scores).sum() ** 2)
        factor = len(questions) / (len(questions) - 1) * (len(scores) - 1) / len(scores)
        return known + factor * float(np.square(np.bincount(place, scores)).sum())


@dataclass(frozen=True)
class Judge:
    """Predicts validation answers.

    Attributes:
        prototypes: the trained shared part.
        terms: of the validation questions.
        bias: of the left side, in margins.
        start: of the slope: what it was before, or means where nothing is known.
        sure: how sure that is, as `sigmoid_slope` takes it.
        asked: which of the questions are new.
        shards: where the users here are some of all; a slope and a loss are of all.
    """

    prototypes: Prototypes
    terms: Terms
    bias: float
    start: float
    sure: float
    asked: Asked
    shards: Alone

    def margins(self, people: UserWeights, answers: Answers) -> tuple[Tensor, Tensor]:
        """Margins and their variances (n,); users unseen in training have the mean weights."""
        median = torch.cat(self.shards.gathered(people.concentration)).median()
        table = people.with_unseen(self.shards.mean(people.weights), median)
        margin, variance = margin_moments(self.prototypes, self.terms, table, answers.question, answers.user)
        return margin + self.bias, variance

    def slope(self, judged: tuple[Tensor, Tensor], answers: Answers) -> float:
        """The slope of the sigmoid that predicts best, margins being uncertain."""
        (margin, variance), weight = judged, self._relative(answers)
        uncertain = self.shards.count(int((variance > 0).any()))
        some_new = self.shards.count(int(self.asked.new[answers.question].any()))
        slope, z, told = self.start, margin, 1.0
        least = _LEAST if uncertain else 1
        for turn in range(_MOST if some_new else least):  # a fixed point: both z and told depend on it
            if some_new:
                told = self._told(slope * z, answers, weight)
            counts = weight if told == 1 else told * (torch.ones_like(margin) if weight is None else weight)
            before, slope = slope, self.shards.slope(z, answers.label, self.start, counts, self.sure)
            z = moderated(margin, slope**2 * variance)
            if turn + 1 >= least and abs(slope / before - 1) < _SETTLED:
                break
        return slope

    def _told(self, logit: Tensor, answers: Answers, weight: Tensor | None) -> float:
        """What answers tell of the slope, as a share of what as many independent ones would.

        Those to one new question are wrong together: the variance of the score by cluster (Liang and Zeger, 1986).
        """
        logit = logit.double()
        score = (torch.sigmoid(logit) - answers.label) * logit
        score = score if weight is None else score * weight
        alone = float(self.shards.total(score.square().sum()))
        together = self.asked.square_sum(score, answers, self.shards)
        return min(1.0, alone / together) if together else 1.0

    def losses(self, judged: tuple[Tensor, Tensor], answers: Answers, slope: float) -> Tensor:
        """Log-losses of answers (n,), each times its weight over the mean weight."""
        margin, variance = judged
        logit = moderated(slope * margin, slope**2 * variance)
        losses = F.binary_cross_entropy_with_logits(logit, answers.label, reduction="none")
        weight = self._relative(answers)
        return losses if weight is None else losses * weight

    def _relative(self, answers: Answers) -> Tensor | None:
        """Weights over their mean; None where all count the same."""
        mean = 0.0 if answers.weight is None else mean_of(answers.weight, self.shards)
        return None if answers.weight is None or not mean else answers.weight / mean

    def loss(self, judged: tuple[Tensor, Tensor], answers: Answers, slope: float) -> float:
        """Their mean."""
        return mean_of(self.losses(judged, answers, slope), self.shards)


def mean_of(x: Tensor, shards: Alone) -> float:
    """The mean of ``x`` (n,) over all processes; NaN where there is nothing."""
    total = shards.total(torch.stack([x.double().sum(), torch.tensor(float(len(x))).double()]))
    return float(total[0] / total[1]) if total[1] else math.nan
