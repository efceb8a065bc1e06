"""Where training starts: initial maps and prototypes, and a group for each user."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._eigen import eigh
from pal._k_means import k_means
from pal._training.tables import Tables
from pal.losses import sigmoid_slope
from pal.maps import MLPMap
from pal.model import ModelConfig, RewardModel, make_prototypes
from pal.prototypes import Prototypes

__all__ = ["begin", "user_groups"]


def begin(
    tables: Tables, shape: ModelConfig, start: RewardModel | None, generator: torch.Generator
) -> tuple[Prototypes, Tensor]:
    """The prototypes and the users' logits (N, K) that training starts from.

    Without a model to start from they are random. A model of as many prototypes goes on as it is. A pooled one grows:
    near copies of its prototype, and users leaning to the group of those who differ from it in the same direction, so
    that the copies part at once (random starts near one another sit on a plateau at the majority's answer).
    """
    n, K = len(tables.user_ids), shape.n_prototypes
    if start is None:
        prototypes = make_prototypes(shape, generator)
        _scale_inputs(prototypes, tables)
        return prototypes, torch.randn(n, K, generator=generator) if K > 1 else torch.zeros(n, 1)
    prototypes = copy.deepcopy(start.prototypes)
    for module in prototypes.modules():
        if isinstance(module, MLPMap):
            module.dropout = shape.dropout
    if start.n_prototypes == K:
        users, rows = start.weights_of(tables.user_ids)
        return prototypes, users.weights[rows].clamp(min=1e-4).log()
    groups = user_groups(tables, prototypes.to(tables.answers.user.device), K, generator).cpu()
    prototypes.grow(K, 0.1, generator)
    return prototypes, (0.6 * F.one_hot(groups, K).float() + 0.4 / K).log()


def _scale_inputs(prototypes: Prototypes, tables: Tables) -> None:
    """Divides inputs by their root mean square length, so that learning rates mean the same for any encoder."""
    for name, x in (("f", tables.questions.items()), ("g", tables.questions.prompts)):
        part = getattr(prototypes, name, None)
        if part is not None and x is not None:
            length = float(x.square().sum(1).mean().sqrt())
            part.input_scale.fill_(1.0 / length if length > 0 else 1.0)


@torch.no_grad()
def user_groups(tables: Tables, pooled: Prototypes, K: int, generator: torch.Generator) -> Tensor:
    """A group for each user (N,), by the direction in which their answers differ from the pooled model's."""
    pooled.eval()
    answers, n, Q = tables.answers, len(tables.user_ids), len(tables.questions)
    device = answers.user.device
    asked, nobody = torch.arange(Q, device=device), torch.zeros(Q, dtype=torch.long, device=device)
    margin = pooled.margin(pooled.terms(tables.questions), torch.ones(1, 1, device=device), asked, nobody)
    mean = tables.pooled().answers
    slope = sigmoid_slope(margin[mean.question], mean.label, weight=mean.weight)
    residual = answers.label - torch.sigmoid(slope * margin)[answers.question]
    features = pooled.features(tables.questions)
    cpu = torch.device("cpu")
    scores = answers.to(cpu).sums(residual.to(cpu), features.to(cpu), n)
    scores /= (tables.counts.to(cpu) + 5.0)[:, None]
    wide = scores.double()
    _, vectors = eigh(wide.T @ wide)
    return k_means(scores @ vectors[:, -8:].float(), K, generator)
