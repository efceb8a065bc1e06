"""What the personal baselines see of an item: a few dozen numbers of its embedding and of its prompt's.

Without prompts an item is its leading principal directions. With prompts it is these and their products with the
leading directions of the prompt: where the two responses are always the same (votes), [x; x_c] under a linear map
would leave each person one constant, while products leave them a taste for prompts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pal._eigen import eigh
from pal._logistic import LinearRewards
from pal.baselines._personal import answers_of
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel, make_prototypes
from pal.prototypes import LinearPrototypes
from pal.training import TrainConfig, model_config
from pal.users import UserWeights

__all__ = ["PENALTIES", "Asked", "Features", "frame_of", "pooled_regression"]

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of a pooled regression, to choose from


@dataclass(frozen=True)
class Asked:
    """The distinct questions of some comparisons, about items as vectors.

    Attributes:
        items: (I, m) float32.
        left: (Q,) rows of `items`.
        right: (Q,) rows of `items`.
        question: (n,) question of each comparison.
    """

    items: Tensor
    left: Tensor
    right: Tensor
    question: Tensor

    def difference(self) -> Tensor:
        """Left minus right, (Q, m) float64."""
        return (self.items[self.left] - self.items[self.right]).double()


class Features:
    """phi(x, x_c): leading directions of the response, products of some with those of the prompt.

    Args:
        data: comparisons whose differences say which directions lead.
        frame: knows whether prompts count.
        n_response: directions of responses where there are no prompts.
        n_own: directions of responses where there are.
        n_products: products of a direction of responses, of at most two, with one of prompts.
        whiten: 1: each direction has a mean square of one; 0: they keep their proportions.
        quadratic: products of two of so many leading directions (of prompts where there are some) are added.
        head: features and theta (m,) of a pooled linear reward, which becomes the first feature.
    """

    def __init__(
        self,
        data: EmbeddedComparisons,
        frame: RewardModel,
        *,
        n_response: int = 24,
        n_own: int = 8,
        n_products: int = 48,
        whiten: float = 1.0,
        quadratic: int = 0,
        head: "tuple[Features, Tensor] | None" = None,
    ) -> None:
        self.frame, self.quadratic, self.head = frame, quadratic, head
        self._weight = max(1e-12, float(answers_of(data)[1].mean()))  # of an answer, on average
        self.uses_prompts = frame.config.prompt == "concatenate"
        questions, _ = frame.questions(data)
        x = questions.responses
        left, right = questions.left, questions.right
        if questions.item_response is not None:
            left, right = questions.item_response[left], questions.item_response[right]
        # the right response is the origin: of votes, "Disagree" is nothing and "Agree" is the statement
        self.origin = x[right].mean(0)
        difference = x[left] - x[right]
        self.response = _directions(difference, n_own if self.uses_prompts else n_response, whiten)
        self.mixed = self.prompt = None
        self.mean = torch.zeros(0)
        if self.uses_prompts and questions.prompts is not None:
            self.mean = questions.prompts.mean(0)
            self.mixed = _directions(difference, 2, whiten)
            rank = n_products // max(1, self.mixed.shape[1])
            self.prompt = _directions(questions.prompts - self.mean, rank, whiten)

    @classmethod
    def wide(cls, data: EmbeddedComparisons, frame: RewardModel) -> "Features":
        """Up to 512 directions and 512 products in their own proportions: for what many people share."""
        return cls(data, frame, n_response=512, n_own=512, n_products=512, whiten=0.0)

    def __call__(self, responses: Tensor, prompts: Tensor | None) -> Tensor:
        """(B, m) of responses (B, D) to prompts (B, Dp)."""
        x = responses - self.origin
        own = x @ self.response
        parts = [own]
        if self.head is not None:
            parts = [(self.head[0](responses, prompts) @ self.head[1].float())[:, None], own]
        if prompts is None or self.mixed is None or self.prompt is None:
            parts.append(_products(own, self.quadratic))
        else:
            c = (prompts - self.mean) @ self.prompt
            c = torch.cat([c, _products(c, self.quadratic)], dim=1)
            parts.append(torch.einsum("ba,bc->bac", x @ self.mixed, c).flatten(1))
        return torch.cat(parts, dim=1)

    def answers(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor]:
        """Labels and weights (n,) of the rows, float32; weights over their mean in training."""
        label, weight = (t.float() for t in answers_of(data))
        return label, weight / self._weight

    def asked(self, data: EmbeddedComparisons) -> Asked:
        """The distinct questions of data.

        Raises:
            InputError: the vectors are not of the kind that these features were made of.
        """
        questions, rows = self.frame.questions(data)
        responses, prompts = questions.responses, None
        if questions.item_response is not None and questions.item_prompt is not None and questions.prompts is not None:
            responses, prompts = responses[questions.item_response], questions.prompts[questions.item_prompt]
        return Asked(self(responses, prompts), questions.left, questions.right, rows)


def _products(x: Tensor, n: int) -> Tensor:
    """Products of two of the n leading columns (the last ones) of x, (B, n (n + 1) / 2)."""
    lead = x[:, x.shape[1] - min(n, x.shape[1]) :]
    i, j = torch.triu_indices(lead.shape[1], lead.shape[1])
    return lead[:, i] * lead[:, j]


def _directions(x: Tensor, rank: int, whiten: float = 1.0) -> Tensor:
    """(D, r): projections on the leading right singular vectors, the leading one last; mean square of one overall."""
    values, vectors = eigh(x.double().T @ x.double() / max(1, len(x)))
    keep = values > 1e-9 * values[-1].clamp(min=1e-30)
    values, vectors = values[keep][-rank:], vectors[:, keep][:, -rank:]
    scale = values.pow(whiten / 2)
    return torch.div(vectors, scale * (values / scale.square()).mean().sqrt()).float()


def frame_of(train: EmbeddedComparisons, config: TrainConfig) -> RewardModel:
    """A model without users that knows what the data are made of: it checks them and encodes texts."""
    shape = replace(model_config(train, replace(config, model="a", loss="logistic"), 1), model="linear")
    if train.prompts is not None:  # texts of prompts are embedded apart, whatever btl-linear does with them
        shape = replace(shape, prompt_encoder=train.prompt_encoder, prompt_revision=train.prompt_revision)
    prototypes = make_prototypes(shape, torch.Generator().manual_seed(config.seed))
    if not isinstance(prototypes, LinearPrototypes):
        raise TypeError("a linear config makes linear prototypes")
    return RewardModel(shape, prototypes, UserWeights.none(1, train.comparisons.user_ids), torch.ones(1))


def pooled_regression(
    features: Features,
    train: EmbeddedComparisons,
    validation: EmbeddedComparisons | None = None,
    penalties: tuple[float, ...] = (1.0,),
) -> Tensor:
    """(m,) of one logistic regression for all, float64; the penalty of the least log-loss on validation."""
    told = _told(features, train)
    if validation is None or len(penalties) == 1:
        return told.solve(penalties[0])
    return told.best_on(_told(features, validation), penalties)


def _told(features: Features, data: EmbeddedComparisons) -> LinearRewards:
    asked = features.asked(data)
    return LinearRewards.of(asked.items.double(), asked.left, asked.right, (asked.question, *answers_of(data)))
