"""What a reward model is, without its parameters: its settings, the prototypes they mean, and the data it takes."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from pal._checks import number, one_of, whole
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError, SavedModelError
from pal.losses import get_loss
from pal.maps import MAPS, make_map
from pal.prototypes import FixedPrototypes, LinearPrototypes, PromptPrototypes, Prototypes

__all__ = ["IDEAL_POINTS", "ModelConfig", "check_data", "make_prototypes"]

IDEAL_POINTS = ("latent", "mixture_of_maps", "map_of_mixture")


@dataclass(frozen=True)
class ModelConfig:
    """What a reward model is, without its parameters; ``config.json`` holds it.

    Attributes:
        model: "a" (fixed prototypes), "b" (prompt prototypes), or "linear" (rewards linear in the embedding).
        n_prototypes: K.
        map: "mlp" or "linear".
        response_dim: D, of the responses' embeddings.
        prompt_dim: Dp, of the prompts' embeddings; 0 where the model takes none.
        latent_dim: d.
        hidden_dim: width of the MLP's hidden layer.
        dropout: in the MLP's hidden layer, in training.
        ideal_point: of model A: "latent", "mixture_of_maps" or "map_of_mixture".
        renormalize: of model B: z_i is divided by its length.
        prompt: "separate" (model B), "concatenate" ([x; x_c]), "joint" (one text) or "none".
        loss: name of the training loss.
        partition: each person is one prototype.
        slope: P(left preferred) = sigmoid(slope * margin + side_bias), calibrated on validation.
        side_bias: how much people favour the left side, as a margin.
        strength: of the prior when weights of new users are found.
        noise: of answers, beside that of yes and no at even odds: 1 of such draws, less of soft labels, which tell more
            of a person; where weights are held as in training, an answer counts 1 / noise times.
        encoder: name of the responses' encoder; None for own vectors.
        revision: of that encoder.
        prompt_encoder: name of the prompts' encoder.
        prompt_revision: of that encoder.
    """

    model: str
    n_prototypes: int
    map: str
    response_dim: int
    prompt_dim: int = 0
    latent_dim: int = 16
    hidden_dim: int = 64
    dropout: float = 0.0
    ideal_point: str = "latent"
    renormalize: bool = False
    prompt: str = "none"
    loss: str = "logistic"
    partition: bool = False
    slope: float = 1.0
    side_bias: float = 0.0
    strength: float = 5.0
    noise: float = 1.0
    encoder: str | None = None
    revision: str | None = None
    prompt_encoder: str | None = None
    prompt_revision: str | None = None

    def __post_init__(self) -> None:
        one_of("model", self.model, ("a", "b", "linear"))
        one_of("map", self.map, MAPS)
        one_of("ideal_point", self.ideal_point, IDEAL_POINTS)
        for name in ("n_prototypes", "response_dim", "latent_dim", "hidden_dim"):
            whole(name, getattr(self, name))
        whole("prompt_dim", self.prompt_dim, least=0)
        number("dropout", self.dropout, least=0, below=1)
        for name in ("slope", "strength", "noise"):
            number(name, getattr(self, name))
        if self.model == "b" and not self.prompt_dim:
            raise InputError("model 'b' needs prompts: give the comparisons a column 'prompt', or use model 'a'")
        get_loss(self.loss)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The config of a saved model; strict about its keys."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise SavedModelError(f"config.json: keys {odd} are missing or unknown: was it written by this version?")
        try:
            return cls(**values)
        except (InputError, TypeError) as error:
            raise SavedModelError(f"config.json: {error}") from None


def make_prototypes(config: ModelConfig, generator: torch.Generator) -> Prototypes:
    """The shared part that a config describes, with initial values from the generator."""
    wide = config.response_dim + (config.prompt_dim if config.prompt == "concatenate" else 0)
    if config.model == "linear":
        return LinearPrototypes(wide, config.n_prototypes)
    shape: dict[str, Any] = {
        "hidden_dim": config.hidden_dim,
        "dropout": config.dropout,
        "generator": generator,
    }
    f = make_map(config.map, wide, config.latent_dim, **shape)
    if config.model == "a":
        return FixedPrototypes(f, config.n_prototypes, config.ideal_point, generator=generator)
    g = make_map(config.map, config.prompt_dim, config.latent_dim, config.n_prototypes, **shape)
    return PromptPrototypes(f, g, config.renormalize)


def check_data(config: ModelConfig, data: EmbeddedComparisons) -> None:
    """Refuses vectors that are not of the kind a model takes."""
    check_embedded(data)
    if data.responses.shape[1] != config.response_dim:
        raise InputError(
            f"the model takes responses of dimension {config.response_dim}, found {data.responses.shape[1]}: "
            f"embed with {config.encoder or 'the vectors it was trained on'}"
        )
    if config.prompt_dim and data.prompts is None:
        without = "prompts: give them a column 'prompt'" if data.comparisons.prompts is None else "embedded prompts"
        raise InputError(f"the model takes prompts, but the comparisons have no {without}")
    if config.prompt_dim and data.prompts is not None and data.prompts.shape[1] != config.prompt_dim:
        raise InputError(f"the model takes prompts of dimension {config.prompt_dim}, found {data.prompts.shape[1]}")
    if (config.prompt == "joint") != (data.prompt_mode == "joint"):
        raise InputError(
            f"the model was trained with prompt={config.prompt!r}, the data are embedded with "
            f"prompt_mode={data.prompt_mode!r}"
        )
    for name, mine, theirs, revision, found in (
        ("responses", config.encoder, data.encoder, config.revision, data.revision),
        ("prompts", config.prompt_encoder, data.prompt_encoder, config.prompt_revision, data.prompt_revision),
    ):
        if mine is None or theirs is None:  # own vectors: nothing is known of where they are from
            continue
        if mine != theirs:
            raise InputError(f"the model was trained on {name} embedded by {mine!r}, found {theirs!r}")
        if None not in (revision, found) and revision != found:
            raise InputError(
                f"the model was trained on {name} embedded by {mine!r} in revision {revision}, found revision {found}"
            )
