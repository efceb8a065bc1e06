"""Kinds of models that data may ask for, each with its numbers of prototypes, and which of them it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pal._plurality import Gain, gain_of
from pal.model import RewardModel
from pal.training import TrainConfig, TrainResult, begins_straight

__all__ = ["Kind", "Stage", "best_kind", "gain_over", "loss_of", "name_of"]

_FEW = 5000  # training answers
_PROBE = 3  # prototypes with which kinds of models are compared, beside one
_CLEAR = 2.0  # standard errors
_LEANS = 3.0  # the same
_BOTH = 2  # numbers of prototypes that are grown from both pooled models, straight and bent


class Stage(Protocol):
    """Trains a model of K prototypes, from a model to go on from; ``kind`` names the checkpoint of a second one."""

    def __call__(self, config: TrainConfig, k: int, begin: RewardModel | None, kind: str = "") -> TrainResult:
        """The trained model."""
        ...


@dataclass
class Kind:
    """Models of one kind, each number of prototypes trained once.

    Attributes:
        stage: trains one.
        config: of this kind.
        group: which validation answers go together: see `pal.training.chance_groups`.
        n_train: training answers.
        name: of its checkpoints.
    """

    stage: Stage
    config: TrainConfig
    group: npt.NDArray[Any]
    n_train: int
    name: str = ""

    def __post_init__(self) -> None:
        self.made: dict[int, TrainResult] = {}
        self._growing = self.name  # what checkpoints of those that grow from `_ground` are called

    @cached_property
    def pooled(self) -> TrainResult:
        """What others grow from and are held against: their maps are of its kind."""
        return self.stage(self.config, 1, None, self.name)

    @cached_property
    def _ground(self) -> TrainResult:
        """The pooled model that others grow from."""
        return self.pooled

    @cached_property
    def one(self) -> TrainResult:
        """The best with one prototype: where rewards are linear a hidden layer learns but noise."""
        config = self.config
        if config.map == "linear" or config.init == "random" or self._straight:
            return self.pooled
        return _better(self.pooled, self.stage(replace(config, map="linear"), 1, None, f"{self.name}-linear"))

    @property
    def _straight(self) -> bool:
        """Whether pooled models begin with the best linear reward."""
        return begins_straight(self.config, self.config.model)

    @cached_property
    def _bent(self) -> TrainResult:
        """A pooled model that begins elsewhere: its hidden layer has had to learn something."""
        return self.stage(replace(self.config, init="random"), 1, None, f"{self.name}-bent")

    @property
    def leans(self) -> bool:
        """Whether people favour a side, whatever is on it, by more than chance would have it."""
        asked = self.config.side_bias is not None or self.config.init == "random"  # as in the paper
        return not asked and abs(self.pooled.leaning) > _LEANS

    @cached_property
    def settled(self) -> "Kind":
        """The same, with a side bias if people favour one."""
        if not self.leans:
            return self
        config = replace(self.config, side_bias=True)
        return Kind(self.stage, config, self.group, self.n_train, f"{self.name}-sided")

    def of(self, k: int) -> TrainResult:
        """With k > 1 prototypes."""
        if k not in self.made:
            self.made[k] = self._grown(k)
        return self.made[k]

    def best_of(self, probe: int | None) -> TrainResult:
        """With one prototype or with so many, whichever is better."""
        return self.one if probe is None else _better(self.one, self.of(probe))

    def _grown(self, k: int) -> TrainResult:
        config = self.config
        if config.init == "random":
            return self.stage(config, k, None, self.name)
        result = self.stage(config, k, self._ground.begun, self._growing)
        if self._straight and self._ground is self.pooled and len(self.made) < _BOTH:
            # what people differ in may be nothing linear, and then shows to a hidden layer only that has learned
            other = self.stage(config, k, self._bent.begun, f"{self.name}-bent")
            if _clearly(other, result, self.group):
                self._ground, self._growing, result = self._bent, f"{self.name}-bent", other
        gain = gain_over(self.pooled, result, self.group)
        grew = gain.mean > gain.error and self.n_train > _FEW
        if grew and not (isinstance(config.n_prototypes, int) and _unused(result.model)):
            return result
        # answers may not show in which directions to grow, if few, or leave a number that was asked for without people:
        # try once from nowhere as well
        return _better(result, self.stage(config, k, None, f"{self.name}-random"))


def best_kind(kinds: Sequence[Kind], numbers: Sequence[int]) -> Kind:
    """The first, unless another is clearly better, with one prototype or a few (of the ``numbers`` above one)."""
    first, *others = kinds
    if not others:
        return first
    probe = max([k for k in numbers if k <= _PROBE], default=_PROBE) if numbers else None
    usual = first.best_of(probe)
    best, chosen = usual, first
    for kind in others:
        if _clearly(first.one, kind.one, first.group):  # worse for all together: it will not be better for each
            continue
        found = kind.best_of(probe)
        if _clearly(found, usual, first.group) and _better(found, best) is found:
            best, chosen = found, kind
    return chosen


def _clearly(one: TrainResult, other: TrainResult, group: npt.NDArray[Any]) -> bool:
    """Whether the first predicts validation answers better, by more than chance would have it; never of one person."""
    gain = gain_over(other, one, group)
    return len(np.unique(group)) > 1 and gain.mean > _CLEAR * gain.error


def _better(one: TrainResult, other: TrainResult) -> TrainResult:
    return min(one, other, key=loss_of)


def loss_of(result: TrainResult) -> float:
    """Mean validation log-loss."""
    return float(result.validation_loss.mean())


def name_of(config: TrainConfig) -> str:
    """What tells the checkpoints of one kind from those of others."""
    return "".join(f"-{part}" for part in (config.model, config.prompt) if part)


def gain_over(pooled: TrainResult, result: TrainResult, group: Any) -> Gain:
    """How much lower the validation log-loss is than the pooled model's."""
    return gain_of((pooled.validation_loss - result.validation_loss).double().numpy(), group)


def _unused(model: RewardModel) -> bool:
    """Whether a prototype is the first of fewer people than a tenth of an even share."""
    first = model.users.weights.argmax(1).bincount(minlength=model.n_prototypes)
    return 10 * model.n_prototypes * int(first.min()) < int(first.sum())
