"""Settings of training, and the model that they mean for some data."""

from dataclasses import dataclass

import numpy as np

from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.losses import get_loss
from pal.model import ModelConfig

__all__ = ["TrainConfig", "model_config"]


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. The defaults were chosen by measurement (docs/decisions.md).

    Attributes:
        model: "a" (fixed prototypes), "b" (prompt prototypes), or None: b where prompts vary, else a.
        n_prototypes: K, "auto", or several to choose from.
        map: "mlp" or "linear".
        latent_dim: d.
        hidden_dim: width of the MLP's hidden layer.
        dropout: in the hidden layer.
        ideal_point: of model A: "latent", "mixture_of_maps", "map_of_mixture".
        renormalize: of model B: divide z_i by its length.
        prompt: of model A: "concatenate" or "none"; None: concatenate where prompts vary. (Joint texts are a
            matter of `pal.embed`.)
        loss: "logistic", "hinge", "smooth_hinge", "exponential".
        partition: each person is one prototype.
        side_bias: learn how much people favour the left side.
        reliability: learn how noisy each person's answers are.
        balance_users: each person counts once, whatever their number of answers.
        strength: of the prior on user weights in training, in answers; the final one is chosen on validation.
        uncertainty: the loss is its mean over what a person's weights may be, which few answers leave open.
        init: "grow" (from the pooled model and the directions in which users differ) or "random" (as the paper).
        lr: of the maps.
        prototype_lr: of fixed prototypes and the scale.
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
            one whose margins are not linear in w, few answers); 0: only the weights are solved anew.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "mps".
        precision: "float32", or "bfloat16" (autocast of the maps).
        progress: a progress bar on stderr, where that is a terminal.
    """

    model: str | None = None
    n_prototypes: int | str | tuple[int, ...] = "auto"
    map: str = "mlp"
    latent_dim: int = 32
    hidden_dim: int = 64
    dropout: float = 0.0
    ideal_point: str = "latent"
    renormalize: bool = False
    prompt: str | None = None
    loss: str = "logistic"
    partition: bool = False
    side_bias: bool = False
    reliability: bool = False
    balance_users: bool = False
    strength: float = 7.0
    uncertainty: bool = True
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
        get_loss(self.loss)
        for name in ("lr", "prototype_lr", "user_lr", "strength"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, found {getattr(self, name)!r}")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise InputError(f"weight_decay must be at least 0, or None, found {self.weight_decay!r}")
        if self.last_passes < 0:
            raise InputError(f"last_passes must be at least 0, found {self.last_passes!r}")
        if self.init not in ("grow", "random"):
            raise InputError(f"init={self.init!r} is not known: use 'grow' or 'random'")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"precision={self.precision!r} is not known: use 'float32' or 'bfloat16'")
        if self.prompt not in (None, "concatenate", "none"):
            raise InputError(f"prompt={self.prompt!r} is not known: use 'concatenate', 'none' or None")
        candidates = self.n_prototypes if isinstance(self.n_prototypes, tuple) else (self.n_prototypes,)
        if self.n_prototypes != "auto":
            for k in candidates:
                if isinstance(k, bool) or not isinstance(k, int) or k < 1:
                    raise InputError(f"n_prototypes must be whole numbers of at least 1 or 'auto', found {k!r}")
            if not candidates:
                raise InputError("n_prototypes is empty: give at least one number")


def model_config(data: EmbeddedComparisons, config: TrainConfig, n_prototypes: int) -> ModelConfig:
    """The model that a training config means for these data.

    Raises:
        InputError: model B without prompts, and the like.
    """
    has_prompts = data.prompts is not None and data.comparisons.prompt is not None
    vary = has_prompts and data.comparisons.prompt is not None and len(np.unique(data.comparisons.prompt[:100_000])) > 1
    kind = config.model or ("b" if vary else "a")
    if kind == "b":
        prompt = "separate"
    elif data.prompt_mode == "joint":
        prompt = "joint"
    else:
        prompt = config.prompt or ("concatenate" if vary else "none")
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
