"""After the loop: the shared part is frozen, the prior's strength chosen, weights solved, probabilities calibrated."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pal._training.tables import Tables
from pal.adaptation import fit_weights, solve_weights
from pal.losses import get_loss, sigmoid_slope
from pal.model import ModelConfig, RewardModel
from pal.prototypes import Prototypes, Terms
from pal.questions import Answers
from pal.users import UserWeights

__all__ = ["Finished", "finish"]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True)
class Finished:
    """The model, its log-loss on each validation answer (n,), and what was measured on the way."""

    model: RewardModel
    validation_loss: Tensor
    metrics: dict[str, Any]


@torch.no_grad()
def finish(
    tables: Tables,
    shape: ModelConfig,
    prototypes: Prototypes,
    trained: Tensor,
    reliability: Tensor,
    bias: float,
    refit: bool,
) -> Finished:
    """Makes the model.

    Args:
        tables: all on the CPU.
        shape: what the model is.
        prototypes: the trained shared part, on the CPU.
        trained: (N, K) weights as the loop left them.
        reliability: (N,).
        bias: of the left side, in margins.
        refit: end with weights solved on training and validation answers together.
    """
    n, K = len(tables.user_ids), shape.n_prototypes
    prior = trained.mean(0)
    model = RewardModel(shape, prototypes, UserWeights.none(K, tables.user_ids), prior)
    terms, val_terms = model.terms(tables.questions), model.terms(tables.val_questions)
    answers, val = tables.answers, tables.val_answers
    seen = (val.user < n).nonzero().squeeze(1)
    solves = K > 1 and (terms.margins is not None or shape.partition)

    def solved(strength: float, parts: list[tuple[Terms, Answers]]) -> Tensor:
        if not solves:
            return trained
        return _solve(model, parts, n, strength, prior, reliability, bias)

    def judged(weights: Tensor) -> tuple[Tensor, Tensor, float]:
        """Margins, log-losses and slope on validation; unseen users have the mean of the weights."""
        everyone = torch.cat([weights, weights.mean(0, keepdim=True)])
        margin = prototypes.margin(val_terms, everyone, val.question, val.user)
        margin = margin * torch.cat([reliability, torch.ones(1)])[val.user] + bias
        slope = sigmoid_slope(margin, val.label, get_loss(shape.loss).link or 1.0, val.weight)
        return margin, F.binary_cross_entropy_with_logits(slope * margin, val.label, reduction="none"), slope

    strength = shape.strength
    if solves and len(seen):
        strength = _choose_strength(tables, model, terms, val_terms, prior, reliability, bias)
    weights = solved(strength, [(terms, answers)])
    margin, losses, slope = judged(weights)
    population = weights.mean(0)
    counts = torch.bincount(answers.user, minlength=n)
    if refit and len(seen):
        known = val.take(seen)
        weights = solved(strength, [(terms, answers), (val_terms, known)])
        counts = counts + torch.bincount(known.user, minlength=n)
    config = replace(shape, slope=slope, side_bias=slope * bias, strength=strength)
    finished = RewardModel(config, prototypes, UserWeights(tables.user_ids, weights, counts, reliability), population)
    decided = val.label != 0.5
    right = (margin > 0) == (val.label > 0.5)
    metrics = {
        "n_prototypes": K,
        "validation_log_loss": float(losses.mean()) if len(losses) else math.nan,
        "validation_accuracy": float(right[decided].float().mean()) if bool(decided.any()) else math.nan,
        "strength": strength,
    }
    return Finished(finished, losses, metrics)


def _choose_strength(
    tables: Tables, model: RewardModel, terms: Terms, val_terms: Terms, prior: Tensor, reliability: Tensor, bias: float
) -> float:
    """The strength whose weights predict the validation answers best, judged on users with 100,000 answers at most."""
    n = len(tables.user_ids)
    mask = torch.zeros(n + 1, dtype=torch.bool)
    some = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    mask[some[tables.counts[some].cumsum(0) <= 100_000]] = True
    answers = tables.answers.take(mask[tables.answers.user].nonzero().squeeze(1))
    val = tables.val_answers.take(mask[tables.val_answers.user].nonzero().squeeze(1))
    losses = {}
    for strength in STRENGTHS:
        weights = _solve(model, [(terms, answers)], n, strength, prior, reliability, bias)
        margin = model.prototypes.margin(val_terms, weights, val.question, val.user) * reliability[val.user] + bias
        slope = sigmoid_slope(margin, val.label, get_loss(model.config.loss).link or 1.0, val.weight)
        losses[strength] = float(F.binary_cross_entropy_with_logits(slope * margin, val.label, val.weight))
    return min(losses, key=lambda strength: losses[strength])


def _solve(
    model: RewardModel,
    parts: list[tuple[Terms, Answers]],
    n_users: int,
    strength: float,
    prior: Tensor,
    reliability: Tensor,
    bias: float,
) -> Tensor:
    """Weights of seen users (N, K) from their answers to one or two sets of questions."""
    user = torch.cat([a.user for _, a in parts])
    label = torch.cat([a.label for _, a in parts])
    weight = None
    if any(a.weight is not None for _, a in parts):
        weight = torch.cat([torch.ones_like(a.label) if a.weight is None else a.weight for _, a in parts])
    if model.config.partition:
        terms, answers = parts[0]  # a vote between K corners: the validation answers are left to the calibration
        return fit_weights(model, terms, answers, n_users, strength, prior).weights
    # on the simplex a constant added to all K margins is added to w . m, so bias and reliability go into them
    margins = torch.cat(
        [t.margins[a.question] * reliability[a.user, None] + bias for t, a in parts if t.margins is not None]
    )
    return solve_weights(margins, label, user, n_users, prior, strength, model.config.loss, weight).weights
