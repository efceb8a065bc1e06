"""Training of one model with a given number of prototypes.

Random comparisons, Adam on the maps and prototypes, a sparse Adam on the weights of the users of the step, validation
log-loss, best checkpoint. At the end the shared part is frozen and every user's weights are solved exactly.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pal._training.config import TrainConfig, model_config
from pal._training.finish import finish
from pal._training.run import Run
from pal._training.tables import Tables
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import ModelConfig, RewardModel, check_data

__all__ = ["TrainConfig", "TrainResult", "model_config", "tabulated", "train"]


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it came about.

    Attributes:
        model: the model.
        history: a row an evaluation: step, seconds, train_loss, validation_log_loss, lr.
        metrics: plain numbers: validation_log_loss, validation_accuracy, seconds, steps, comparisons_per_second, ...
        validation_loss: (n_validation,) log-loss of each validation answer, weights solved on training answers.
        shared_loss: (n_validation,) the same with everybody's mean weights.
    """

    model: RewardModel
    history: pl.DataFrame
    metrics: dict[str, Any]
    validation_loss: Tensor
    shared_loss: Tensor


def train(
    data: EmbeddedComparisons,
    validation: EmbeddedComparisons,
    config: TrainConfig,
    n_prototypes: int,
    start: RewardModel | None = None,
    checkpoint: Path | None = None,
    tables: Tables | None = None,
) -> TrainResult:
    """Trains one model.

    Args:
        data: training comparisons.
        validation: comparisons that choose the checkpoint and the strength of the prior, and calibrate.
        config: how; its `n_prototypes` is not used.
        n_prototypes: K.
        start: where to go on from: a model of K prototypes (its users keep their weights), or a pooled one to grow.
        checkpoint: a file that is written on the way and taken up where it is there; the result is the same as
            without interruption.
        tables: what `tabulated` made of the same data, to share between calls.

    Raises:
        InputError: data that do not fit the model.
    """
    shape = model_config(data, config, n_prototypes)
    if start is not None:
        shape = _shape_of_start(shape, start, n_prototypes)
        check_data(shape, data)
    tables = tables or Tables.of(data, validation, shape, config)
    run = Run(tables, shape, config, start)
    run.train(checkpoint)
    state, cpu = run.state, torch.device("cpu")
    table = run.table.cpu()
    weights, reliability = torch.softmax(table[:, :-1], dim=1), table[:, -1].exp()
    bias = float(run.bias.detach())
    done = finish(tables.to(cpu), shape, run.prototypes.to(cpu), weights, reliability, bias, config.refit)
    speed = {
        "steps": state.step,
        "seconds": state.seconds,
        "comparisons_per_second": state.step * run.batch / max(state.seconds, 1e-9),
    }
    model = done.model
    if start is not None and start.n_prototypes == n_prototypes:
        model = start.with_users(model.users)._with_shared_part_of(model)
    return TrainResult(
        model, pl.DataFrame(state.history), {**done.metrics, **speed}, done.validation_loss, done.shared_loss
    )


def tabulated(data: EmbeddedComparisons, validation: EmbeddedComparisons, config: TrainConfig) -> Tables:
    """Training and validation answers as the tensors that `train` works on, the same for every K."""
    return Tables.of(data, validation, model_config(data, config, 1), config)


def _shape_of_start(shape: ModelConfig, start: RewardModel, n_prototypes: int) -> ModelConfig:
    if start.n_prototypes not in (1, n_prototypes):
        raise InputError(f"a model of {start.n_prototypes} prototypes cannot go on as one of {n_prototypes}")
    return replace(start.config, n_prototypes=n_prototypes, dropout=shape.dropout, loss=shape.loss)
