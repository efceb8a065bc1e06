"""How well people's weights predict validation answers, and the slope of the sigmoid that does it best."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._training.alone import Alone
from pal.losses import moderated
from pal.model import margin_moments
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import UserWeights

__all__ = ["Judge", "mean_of"]


@dataclass(frozen=True)
class Judge:
    """Predicts validation answers.

    Attributes:
        prototypes: the trained shared part.
        terms: of the validation questions.
        bias: of the left side, in margins.
        start: of the slope: what it was before, or means where nothing is known.
        sure: how sure that is, as `sigmoid_slope` takes it.
        shards: where the users here are some of all; a slope and a loss are of all.
    """

    prototypes: Prototypes
    terms: Terms
    bias: float
    start: float
    sure: float
    shards: Alone

    def margins(self, people: UserWeights, answers: Answers) -> tuple[Tensor, Tensor]:
        """Margins and their variances (n,); users unseen in training have the mean weights."""
        median = torch.cat(self.shards.gathered(people.concentration)).median()
        table = people.with_unseen(self.shards.mean(people.weights), median)
        margin, variance = margin_moments(self.prototypes, self.terms, table, answers.question, answers.user)
        return margin + self.bias, variance

    def slope(self, judged: tuple[Tensor, Tensor], answers: Answers) -> float:
        """The slope of the sigmoid that predicts best, margins being uncertain."""
        margin, variance = judged
        given = (answers.label, self.start, self._relative(answers), self.sure)
        slope = self.shards.slope(margin, *given)
        if self.shards.count(int((variance > 0).any())):
            for _ in range(3):  # a fixed point: what moderates the margin depends on the slope
                slope = self.shards.slope(moderated(margin, slope**2 * variance), *given)
        return slope

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
