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
        asked = np.unique(np.concatenate(shards.gathered(np.unique(tables.keys))))
        return cls(len(asked), tables.val_keys, torch.from_numpy(~np.isin(tables.val_keys, asked)))

    def share_new(self, answers: Answers, shards: Alone) -> float:
        """Of validation answers, those to new questions."""
        return shards.count(int(self.new[answers.question].sum())) / max(1, shards.count(len(answers)))

    def square_sum(self, score: Tensor, answers: Answers, shards: Alone) -> Tensor:
        """Sum of the squares of scores (n,), those of answers to one new question summed before."""
        new = self.new[answers.question]
        parts = shards.gathered((self.keys[answers.question[new].numpy()], score[new].numpy()))
        keys, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        _, place = np.unique(keys, return_inverse=True)
        return shards.total(score[~new].square().sum()) + float(np.square(np.bincount(place, scores)).sum())


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
        (margin, variance), weight, told = judged, self._relative(answers), 1.0
        uncertain = self.shards.count(int((variance > 0).any()))
        some_new = self.shards.count(int(self.asked.new[answers.question].any()))
        slope, z = self.start, margin
        for _ in range(
            4 if uncertain or some_new else 1
        ):  # a fixed point: what moderates the margin depends on the slope
            counts = weight if told == 1 else told * answers.counting if weight is None else told * weight
            slope = self.shards.slope(z, answers.label, self.start, counts, self.sure)
            z = moderated(margin, slope**2 * variance)
            if some_new:
                told = self._told(slope * z, answers, weight)
        return slope

    def _told(self, logit: Tensor, answers: Answers, weight: Tensor | None) -> float:
        """What answers tell of the slope, as a share of what as many independent ones would.

        Those to one new question are wrong together: the variance of the score by cluster (Liang and Zeger, 1986).
        """
        score = ((torch.sigmoid(logit) - answers.label) * logit).double()
        score = score if weight is None else score * weight
        alone = self.shards.total(score.square().sum())
        return min(1.0, float(alone / self.asked.square_sum(score, answers, self.shards).clamp(min=1e-30)))

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
