"""Where training starts: initial maps and prototypes, and each user's kind."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._logistic import LinearRewards
from pal._training.groups import user_groups
from pal._training.tables import Tables
from pal.maps import MLPMap
from pal.model import ModelConfig, RewardModel, make_prototypes
from pal.prototypes import FixedPrototypes, Prototypes

if TYPE_CHECKING:
    from pal._training.alone import Alone

__all__ = ["begin", "frame", "straighten"]

_SHARED = 1.0  # how much is kept of the mean vector, in root mean square distances from it
_RESPONSES = 3.0  # the same of model B's responses: what they share mostly cancels in their differences
_ASKED = 20_000  # questions, about, that the first linear reward is learned from, or ten a dimension
_FOLDS = 5  # of these questions, to choose one of
_PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)  # of the first linear reward, for inputs of length one
_EQUAL = 1e-3  # of the mean's length: vectors no further from it are one vector, but for rounding


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
        for name, x in (("f", tables.questions.items()), ("g", tables.questions.prompts)):
            part = getattr(prototypes, name, None)
            if part is not None and x is not None:
                most = _RESPONSES if (shape.model, name) == ("b", "f") else _SHARED
                part.place(*frame(x, shards.over_rows(x), most))
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


def straighten(prototypes: Prototypes, tables: Tables, shards: "Alone") -> None:
    """Begins a new pooled model A with the linear reward of all people (in place).

    What turns on directions in which vectors hardly vary is out of reach for steps of one size; solved for it is not,
    and prototypes that grow from there find in which of these people differ.

    Args:
        prototypes: new, of one latent point: `pal._training.config.begins_straight`.
        tables: training answers; validation answers have no part in it.
        shards: where the answers here are some of all.
    """
    if not isinstance(prototypes, FixedPrototypes):
        raise TypeError("a model A has fixed prototypes")
    seen, here = prototypes.f, tables.to(torch.device("cpu"))
    questions, answers = here.questions, here.answers
    # of what is concatenated, prompts add nothing: both responses have the same
    responses, left, right = questions.responses, questions.left, questions.right
    if questions.item_response is not None:
        left, right = questions.item_response[left], questions.item_response[right]
    given = answers.counting.double()
    weight = given / shards.total(given.sum()) * shards.count(len(given))
    told = LinearRewards.of(responses, left, right, (answers.question, answers.label, weight), shards.total)
    (n, _), keys = shards.rows(len(questions), pooled=True), torch.from_numpy(tables.keys)
    some = (keys // _FOLDS % max(1, round(n / max(_ASKED, 10 * responses.shape[1]))) == 0).nonzero().squeeze(1)
    told = told.take(some)
    told = replace(told, items=(told.items - seen.input_shift[: responses.shape[1]]) * seen.input_scale)
    theta = told.cross_validated(_PENALTIES, keys[some] % _FOLDS, _FOLDS).float()
    prototypes.straighten(F.pad(theta, (0, seen.in_dim - len(theta))))


def frame(x: Tensor, mean: Callable[[Tensor], Tensor], most: float) -> tuple[Tensor, float]:
    """Where a map's inputs x (m, D) lie: what is taken from them (D,), and the root mean square length of the rest.

    Learning rates then mean the same for any encoder. Where all vectors are nearly one (hidden states of a language
    model, a language that the encoder does not know), most of what they share is taken away, or a hidden layer sees
    little else; some stays, since the linear part of a map has no bias.

    Args:
        x: distinct vectors.
        mean: over the rows of all processes.
        most: of what they share, in root mean square distances from it, that stays.
    """
    shared = mean(x).float()
    apart, length = float(mean((x - shared).square().sum(1)).sqrt()), float(shared.norm())
    too_much = max(0.0, 1 - most * apart / length) if apart > _EQUAL * length else 0.0
    taken = too_much * shared
    return taken, float(mean((x - taken).square().sum(1)).sqrt())
