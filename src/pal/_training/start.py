"""Where training starts: initial maps and prototypes, and each user's kind."""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pal._training.groups import user_groups
from pal._training.tables import Tables
from pal.maps import MLPMap
from pal.model import ModelConfig, RewardModel, make_prototypes
from pal.prototypes import Prototypes

if TYPE_CHECKING:
    from pal._training.alone import Alone

__all__ = ["begin"]


def begin(
    tables: Tables, shape: ModelConfig, start: RewardModel | None, generator: torch.Generator, shards: "Alone"
) -> tuple[Prototypes, Tensor]:
    """The prototypes and the logits (n, K) of the users here that training starts from.

    Without a model to start from they are random. A model of as many prototypes goes on as it is. A pooled one grows:
    near copies of its prototype, and users leaning to the group of those who differ from it in the same way, so that
    the copies part at once (random starts near one another sit on a plateau at the majority's answer).
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
    groups, directions = user_groups(tables, prototypes.to(tables.answers.user.device), K, generator, shards)
    prototypes.grow(K, 0.1, generator)
    prototypes.lean(directions)
    return prototypes, (0.6 * groups + 0.4 / K).log()


def _scale_inputs(prototypes: Prototypes, tables: Tables) -> None:
    """Divides inputs by their root mean square length, so that learning rates mean the same for any encoder."""
    for name, x in (("f", tables.questions.items()), ("g", tables.questions.prompts)):
        part = getattr(prototypes, name, None)
        if part is not None and x is not None:
            length = float(x.square().sum(1).mean().sqrt())
            part.input_scale.fill_(1.0 / length if length > 0 else 1.0)
