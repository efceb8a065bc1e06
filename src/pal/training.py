"""Training of one model with a given number of prototypes.

Random comparisons, Adam on the maps and prototypes, a sparse Adam on the weights of the users of the step, validation
log-loss, best checkpoint. At the end the shared part is frozen and every user's weights are solved exactly.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._training.alone import Alone
from pal._training.config import Prompts, TrainConfig, begins_straight, config_of, continued, kinds, model_config
from pal._training.finish import finish, refitted
from pal._training.judging import Asked
from pal._training.run import Run
from pal._training.sample import Sample
from pal._training.tables import Tables
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import ModelConfig, RewardModel, check_data
from pal.prototypes import Prototypes
from pal.questions import row_keys
from pal.users import UserWeights, simplex

__all__ = [
    "Alike",
    "Prompts",
    "Tabulated",
    "TrainConfig",
    "TrainResult",
    "answered_alike",
    "begins_straight",
    "chance_groups",
    "config_of",
    "continued",
    "kinds",
    "model_config",
    "train",
]


# last passes learn by heart where they make margins so much larger and validation loss had risen by so much at the full
# rates: one is enough then
_BY_HEART, _ROSE = 1.1, 0.02
_LEAST_GROUPS = 6  # with five, even if all agree, a test by the signs of groups has p = 1 / 32


class Alike(NamedTuple):
    """Training answers that count, (n,) each: of which ``user`` they are, to which ``question``, the ``label``."""

    user: npt.NDArray[Any]
    question: npt.NDArray[Any]
    label: npt.NDArray[Any]


class _Once:
    """Makes a model when it is first asked for, whoever asks; what it is made of may go then."""

    def __init__(self, make: Callable[[], RewardModel]) -> None:
        self._make: Callable[[], RewardModel] | None = make
        self._lock = Lock()

    def __call__(self) -> RewardModel:
        with self._lock:
            if self._make is not None:
                self._made = self._make()
                self._make = None
            return self._made


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it came about.

    Attributes:
        begun: the model before it learned from validation answers: what others may grow from.
        history: a row an evaluation: step, seconds, train_loss, validation_log_loss, lr.
        metrics: plain numbers: validation_log_loss, validation_accuracy, seconds, steps, comparisons_per_second, ...
        validation_loss: (n_validation,) log-loss of each validation answer, before any of them was learned from; times
            its weight over the mean weight.
        shared_loss: (n_validation,) the same with everybody's mean weights.
        leaning: in standard errors over people, how much more often training answers are "left" than one reward for all
            says, which was trained for no side bias; 0 of several prototypes, or where left and right are no sides.
        complete: makes `model`, once.
    """

    begun: RewardModel
    history: pl.DataFrame
    metrics: dict[str, Any]
    validation_loss: Tensor
    shared_loss: Tensor
    leaning: float
    complete: Callable[[], RewardModel]

    @property
    def model(self) -> RewardModel:
        """The model, of validation answers too: gone over when first asked for, a third of the time of a training."""
        return self.complete()


def train(
    data: EmbeddedComparisons,
    validation: EmbeddedComparisons,
    config: TrainConfig,
    n_prototypes: int,
    start: RewardModel | None = None,
    checkpoint: Path | None = None,
    tables: Tables | None = None,
    shards: Alone | None = None,
) -> TrainResult:
    """Trains one model.

    Args:
        data: training comparisons.
        validation: comparisons that choose the checkpoint and the strength of the prior, and calibrate.
        config: how; its `n_prototypes` is not used.
        n_prototypes: K.
        start: where to go on from: a model of K prototypes (what it knows of its users counts, as do their new
            answers), or a pooled one to grow.
        checkpoint: a file that is written on the way and taken up where it is there; the result is the same as
            without interruption.
        tables: what `Tabulated` made of the same data, to share between calls.
        shards: where this is one of several processes, and the data are of the users here; the result is of all, its
            model as well, if all processes ask for it.

    Raises:
        InputError: data that do not fit the model.
    """
    shape = model_config(data, config, n_prototypes)
    if start is not None:
        shape = _shape_of_start(shape, start, n_prototypes)
        check_data(shape, data)
    tables = tables or Tables.of(data, validation, shape, config)
    shards = shards or Alone()
    run = Run(tables.balanced(shards.count) if config.balance_users else tables, shape, config, start, shards)
    run.train(checkpoint)
    before = start if start is not None and start.n_prototypes == n_prototypes else None
    cpu = torch.device("cpu")
    done = finish(tables.to(cpu), run.shape, *_state(run), before, shards)

    def after(passes: int) -> tuple[RewardModel, float]:
        if passes:
            run.go_over(passes)
        return refitted(tables.to(cpu), done, *_state(run), before, shards)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def complete() -> RewardModel:
        model = done.model
        known = tables.val_answers.user < len(tables.user_ids)
        if config.refit and shards.count(int(known.any())):
            back = run.kept()
            try:
                model, grown = after(config.last_passes)
                if config.last_passes > 1 and grown > _BY_HEART and run.risen() > _ROSE:
                    back()
                    model, _ = after(1)
            except BaseException:  # who asks again gets the same
                back()
                raise
        model = RewardModel(model.config, model.prototypes, shards.everyone(model.users), model.prior)
        if start is not None and before is not None:
            model = start.with_users(model.users)._with_shared_part_of(model)
        return model

    losses, shared = (torch.cat(shards.gathered(part)) for part in (done.validation_loss, done.shared_loss))
    state = run.state
    speed = {
        "steps": state.step,
        "seconds": state.seconds,
        "comparisons_per_second": state.step * run.batch / max(state.seconds, 1e-9),
    }
    history, metrics = pl.DataFrame(state.history), {**done.metrics, **speed}
    return TrainResult(done.model, history, metrics, losses, shared, done.leaning, _Once(complete))


def _state(run: Run) -> tuple[Prototypes, UserWeights, float]:
    """Copies of the shared part, the users and the bias of a run, on the CPU: the run may go on."""
    table = run.table.cpu()
    never = torch.zeros(len(table), dtype=torch.long)
    users = UserWeights(run.every.user_ids, simplex(table[:, :-1]).contiguous(), never, table[:, -1].exp())
    prototypes = copy.deepcopy(run.prototypes).to("cpu")
    prototypes.settle()
    return prototypes, users, float(run.bias.detach())


class Tabulated:
    """Training and validation answers as the tensors that `train` works on, the same for every K.

    Those of one kind of model are kept at a time.
    """

    def __init__(self, data: EmbeddedComparisons, validation: EmbeddedComparisons) -> None:
        self._parts = data, validation
        self._made: tuple[str | None, Tables] | None = None

    def of(self, config: TrainConfig) -> Tables:
        """Those of the model that a config means."""
        data, validation = self._parts
        shape = model_config(data, config, 1)
        if self._made is None or self._made[0] != shape.prompt:
            self._made = shape.prompt, Tables.of(data, validation, shape, config)
        return self._made[1]


def chance_groups(tables: Tables, user: npt.NDArray[Any], shards: Alone | None = None) -> npt.NDArray[np.int64]:
    """Which validation answers (n,) chance moves together: a person's or, where most are to new ones, a question's.

    By question only where these are fewer than people, and enough for a test to find anything.

    Args:
        tables: the answers.
        user: (n,) of whom each validation answer is, of all processes in their order.
        shards: where the answers here are some of all.
    """
    shards = shards or Alone()
    asked, answers = Asked.of(tables, shards), tables.val_answers.to(torch.device("cpu"))
    key = np.concatenate(shards.gathered(asked.keys[answers.question.numpy()]))
    questions = len(np.unique(key))
    by_question = asked.share_new(answers, shards) > 0.5 and _LEAST_GROUPS <= questions < len(np.unique(user))
    return key if by_question else user


def answered_alike(tables: Tables, shards: Alone | None = None) -> Alike:
    """What the test of agreement is about, of all processes, and of no more people than a sample has.

    Where sides mean something, of what a person answered both ways round only one way.

    Args:
        tables: the answers.
        shards: where the answers here are some of all.
    """
    shards, answers = shards or Alone(), tables.answers.to(torch.device("cpu"))
    sample, questions = Sample.of_users(tables, shards), tables.questions
    place = shards.own(torch.arange(len(sample.chosen)))[answers.user].numpy()
    some = sample.chosen.numpy()[place] & (answers.counting.numpy() > 0)
    response = row_keys(questions.responses)
    if questions.item_response is not None:
        response = response[questions.item_response.numpy(force=True)]
    turned = response[questions.left.numpy(force=True)] > response[questions.right.numpy(force=True)]
    asked = answers.question.numpy()
    question, turned, label = tables.keys[asked], turned[asked], answers.label.numpy()  # a key for both ways round
    if tables.sided:
        pair = np.unique(np.stack([place, question]), axis=1, return_index=True, return_inverse=True)[1:]
        some, question = some & (turned == turned[pair[0]][pair[1].reshape(-1)]), question * 2 + turned
    else:  # left and right mean nothing: of chosen and rejected all labels are 1
        label = np.where(turned, 1 - label, label)
    columns = [column[some] for column in (place, question, label)]
    return Alike(*(np.concatenate(parts) for parts in zip(*shards.gathered(columns), strict=True)))


def _shape_of_start(shape: ModelConfig, start: RewardModel, n_prototypes: int) -> ModelConfig:
    if start.n_prototypes not in (1, n_prototypes):
        raise InputError(f"a model of {start.n_prototypes} prototypes cannot go on as one of {n_prototypes}")
    return replace(start.config, n_prototypes=n_prototypes, dropout=shape.dropout, loss=shape.loss)
