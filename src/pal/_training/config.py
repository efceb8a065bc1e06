"""Settings of training, and the model that they mean for some data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from pal._checks import flag, number, one_of, whole
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.losses import LOSSES, get_loss
from pal.maps import MAPS
from pal.model import IDEAL_POINTS, ModelConfig, RewardModel

__all__ = ["Prompts", "TrainConfig", "begins_straight", "config_of", "continued", "kinds", "model_config"]

_KNOWN = {
    "model": ("a", "b", None),
    "map": MAPS,
    "ideal_point": IDEAL_POINTS,
    "prompt": ("concatenate", "none", None),
    "loss": tuple(sorted(LOSSES)),
    "init": ("grow", "random"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("float32", "bfloat16"),
}
_MADE_OF = ("model", "n_prototypes", "map", "latent_dim", "hidden_dim", "ideal_point", "renormalize", "partition")
_LEAST = {"latent_dim": 1, "hidden_dim": 1, "max_steps": 1, "patience": 1, "drops": 0, "last_passes": 0, "seed": 0}
_OWN = 1.2  # people a prompt, on average, below which prompts are people's own


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. The defaults were chosen by measurement (docs/decisions.md).

    Attributes:
        model: "a" (fixed prototypes), "b" (prompt prototypes), or None: a, but where prompts vary and `prompt` is not
            given b (where people have prompts of their own a without the prompt), unless another of b and a, with and
            without the prompt, predicts validation answers clearly better; with `init="random"` always b there.
        n_prototypes: K, "auto" (1, 2, 3, 5, 8, 12, 16, 24 while validation improves; no more than one for each 200
            answers, or three), or several to choose from.
        map: "mlp" or "linear"; a pooled model B may be linear where "mlp" is asked (unless `init` is "random").
        latent_dim: d.
        hidden_dim: width of the MLP's hidden layer.
        dropout: in the hidden layer.
        ideal_point: of model A: "latent", "mixture_of_maps", "map_of_mixture".
        renormalize: of model B: divide z_i by its length.
        prompt: of model A: "concatenate" or "none"; None: concatenate where prompts vary. (Joint texts are a
            matter of `pal.embed`.)
        loss: "logistic", "hinge", "smooth_hinge", "exponential".
        partition: each person is one prototype.
        side_bias: learn how much people favour the left side; None: where training answers show it.
        reliability: learn how noisy each person's answers are.
        balance_users: each person counts once, whatever their number of answers.
        strength: of the prior on user weights in training, in answers; the final one is chosen on validation.
        uncertainty: the loss is its mean over what a person's weights may be, which few answers leave open.
        curvature: learn how much rewards bend, in model A with "latent" ideal points.
        init: "grow" (from the pooled model, in model A from the best linear reward, and the directions in which users
            differ) or "random" (as the paper).
        lr: of the maps.
        prototype_lr: of fixed prototypes and their curvature, and of model B's scale.
        user_lr: of the user weights.
        weight_decay: of the maps, beside a mean loss; None: 4 over the number of training comparisons, a normal prior,
            in model A; 0 in model B.
        batch_size: comparisons a step; None: a hundredth of them, from 256 to 8,192.
        max_steps: at most this many steps before the last passes.
        max_epochs: at most this many passes, where given.
        patience: evaluations without improvement before the learning rates fall; after that, half as many.
        drops: times the learning rates fall (to a fifth) before training ends.
        eval_every: steps between evaluations; None: a pass, from 8 to 25.
        refit: end with training and validation answers together: some last passes over them, then weights solved on
            them.
        last_passes: how many at the full learning rates and at each of two low ones (only at these: the pooled model,
            one whose margins are not linear in w, few answers, one whose validation loss had risen); 0: only the
            weights are solved anew.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "mps".
        precision: "float32", or "bfloat16" (autocast of the maps).
        progress: a progress bar on stderr, where that is a terminal.
    """

    model: str | None = None
    n_prototypes: int | str | Sequence[int] = "auto"
    map: str = "mlp"
    latent_dim: int = 32
    hidden_dim: int = 64
    dropout: float = 0.0
    ideal_point: str = "latent"
    renormalize: bool = False
    prompt: str | None = None
    loss: str = "logistic"
    partition: bool = False
    side_bias: bool | None = None
    reliability: bool = False
    balance_users: bool = False
    strength: float = 7.0
    uncertainty: bool = True
    curvature: bool = True
    init: str = "grow"
    lr: float = 6e-3
    prototype_lr: float = 1e-2
    user_lr: float = 1e-1
    weight_decay: float | None = None
    batch_size: int | None = None
    max_steps: int = 20_000
    max_epochs: int | None = None
    patience: int = 8
    drops: int = 2
    eval_every: int | None = None
    refit: bool = True
    last_passes: int = 3
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    progress: bool = False

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            one_of(name, getattr(self, name), known)
        if self.model == "b" and self.prompt is not None:
            raise InputError(f"prompt={self.prompt!r} is for model 'a': model 'b' has maps of the prompts' own")
        for field in fields(self):
            if field.type is bool:
                flag(field.name, getattr(self, field.name))
        if self.side_bias is not None:
            flag("side_bias", self.side_bias)
        # numbers of numpy become plain ones, which JSON can hold
        plain: dict[str, Any] = {"n_prototypes": _n_prototypes(self.n_prototypes)}
        for name in ("lr", "prototype_lr", "user_lr", "strength"):
            plain[name] = number(name, getattr(self, name))
        plain["dropout"] = number("dropout", self.dropout, least=0, below=1)
        for name, least in _LEAST.items():
            plain[name] = whole(name, getattr(self, name), least)
        for name in ("batch_size", "max_epochs", "eval_every"):
            if getattr(self, name) is not None:
                plain[name] = whole(name, getattr(self, name))
        if self.weight_decay is not None:
            plain["weight_decay"] = number("weight_decay", self.weight_decay, least=0)
        for name, value in plain.items():
            object.__setattr__(self, name, value)


def _n_prototypes(asked: Any) -> int | str | tuple[int, ...]:
    """A number, "auto", or a tuple of numbers: lists, ranges and arrays are taken too."""
    if isinstance(asked, str) and asked == "auto":
        return asked
    several = isinstance(asked, Iterable) and not isinstance(asked, str | bytes) and getattr(asked, "ndim", 1) > 0
    numbers = tuple(asked) if several else (asked,)
    for k in numbers:
        if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
            raise InputError(f"n_prototypes must be whole numbers of at least 1 or 'auto', found {k!r}")
    if not numbers:
        raise InputError("n_prototypes is empty: give at least one number")
    return tuple(map(int, numbers)) if several else int(asked)


def config_of(given: TrainConfig | None) -> TrainConfig:
    """The config that was given, or the defaults.

    Raises:
        InputError: it is something else.
    """
    if given is not None and not isinstance(given, TrainConfig):
        raise InputError(f"config must be a pal.TrainConfig, found {given!r:.60}")
    return given or TrainConfig()


def continued(config: TrainConfig | None, start: RewardModel | None) -> TrainConfig:
    """The config with which a model goes on: what it is made of is the start's.

    Raises:
        InputError: the config was changed to ask for something else, or is none.
    """
    config = config_of(config)
    if start is None:
        return config
    if not isinstance(start, RewardModel):
        raise InputError(f"start must be a pal.RewardModel, found {start!r:.60}: read one by from_pretrained")
    default, kept = TrainConfig(), {}
    # "separate" and "joint" follow from model and data
    of_prompts = ("prompt",) if start.config.prompt in _KNOWN["prompt"] else ()
    for name in (*_MADE_OF, *of_prompts):
        asked, there = getattr(config, name), getattr(start.config, name)
        if asked not in (getattr(default, name), there):
            raise InputError(f"the model to start from has {name}={there!r}, but {name}={asked!r} is asked for")
        kept[name] = there
    # what it learned beside the weights goes on being learned
    kept["side_bias"] = start.config.side_bias != 0 if config.side_bias is None else config.side_bias
    kept["reliability"] = config.reliability or bool((start.users.reliability != 1).any())
    return replace(config, **kept)


def begins_straight(config: TrainConfig, model: str | None) -> bool:
    """Whether a pooled model of that kind begins with the best linear reward."""
    return config.init == "grow" and (model, config.ideal_point) == ("a", "latent")


class Prompts(NamedTuple):
    """What answers are to.

    Attributes:
        prompts: distinct ones.
        pairs: of a person and a prompt.
        people: who answered.
        responses: distinct ones.
    """

    prompts: int
    pairs: int
    people: int
    responses: int

    @classmethod
    def of(cls, data: EmbeddedComparisons) -> "Prompts":
        """Those of comparisons; none where a model would see none."""
        table = data.comparisons
        if data.prompts is None or table.prompt is None:
            return cls(0, 0, 0, 0)
        n_people, n_prompts = len(table.user_ids), int(table.prompt.max(initial=-1)) + 1
        pair = table.prompt.astype(np.int64) * n_people + table.user
        pair.sort()  # as quick again as np.unique
        pairs = int((pair[1:] != pair[:-1]).sum()) + min(1, len(pair))
        sides = np.concatenate([table.left, table.right])
        counts = (np.bincount(each, minlength=n) for each, n in ((table.prompt, n_prompts), (table.user, n_people)))
        prompts, people = (int(np.count_nonzero(each)) for each in counts)
        return cls(prompts, pairs, people, int(np.count_nonzero(np.bincount(sides))))

    @property
    def own(self) -> bool:
        """Whether people have prompts of their own, and these responses of theirs: as people who talk with a model."""
        return self.pairs < _OWN * self.prompts and self.people > 1 and self.responses > self.prompts


def kinds(data: EmbeddedComparisons, config: TrainConfig, prompts: Prompts) -> list[TrainConfig]:
    """What a config may mean where it leaves the model to the data: the first, unless another proves better.

    Args:
        data: comparisons.
        config: what was asked for.
        prompts: of these and (where they are some of all) all others.
    """
    vary = prompts.prompts > 1
    if config.model is not None or not vary or config.prompt is not None:
        prompt = config.prompt
        if config.model != "b" and prompt is None and data.prompt_mode != "joint":
            prompt = "concatenate" if vary else "none"
        return [replace(config, model=config.model or "a", prompt=prompt)]
    b, none, both = (replace(config, model=m, prompt=p) for m, p in (("b", None), ("a", "none"), ("a", "concatenate")))
    # from prompts that nobody else was asked b learns who answers
    return [none, b, both] if prompts.own and config.init != "random" else [b, none, both]


def model_config(data: EmbeddedComparisons, config: TrainConfig, n_prototypes: int) -> ModelConfig:
    """The model that a training config means for these data.

    Raises:
        InputError: model B without prompts, and the like.
    """
    if config.model != "b" and config.prompt is None:
        config = kinds(data, config, Prompts.of(data))[0]
    has_prompts = data.prompts is not None and data.comparisons.prompt is not None
    kind = config.model or "a"
    if kind == "b" and data.prompt_mode == "joint":
        raise InputError("model 'b' takes prompts apart, but here each is one text with its response: use model 'a'")
    if kind == "b":
        prompt = "separate"
    elif data.prompt_mode == "joint":
        prompt = "joint"
    else:
        prompt = config.prompt or "none"
        if prompt == "concatenate" and not has_prompts:
            raise InputError("prompt='concatenate' needs prompts: give the comparisons a column 'prompt'")
    takes_prompts = prompt in ("separate", "concatenate") and data.prompts is not None
    return ModelConfig(
        model=kind,
        n_prototypes=n_prototypes,
        map=config.map,
        response_dim=int(data.responses.shape[1]),
        prompt_dim=int(data.prompts.shape[1]) if takes_prompts and data.prompts is not None else 0,
        latent_dim=config.latent_dim,
        hidden_dim=config.hidden_dim,
        dropout=config.dropout,
        ideal_point=config.ideal_point,
        renormalize=config.renormalize,
        prompt=prompt,
        loss=config.loss,
        partition=config.partition,
        slope=get_loss(config.loss).link or 1.0,
        strength=config.strength,
        encoder=data.encoder,
        revision=data.revision,
        prompt_encoder=data.prompt_encoder if takes_prompts else None,
        prompt_revision=data.prompt_revision if takes_prompts else None,
    )
