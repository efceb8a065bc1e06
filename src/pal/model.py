"""RewardModel: maps and prototypes that the population shares, and a point on the simplex for each user."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from pal import saving
from pal._checks import contents, path_of, tensor
from pal._model_config import IDEAL_POINTS, ModelConfig, check_data, make_prototypes
from pal.embeddings import EmbeddedComparisons, Encoder, encode, resolve_encoder
from pal.errors import InputError, SavedModelError
from pal.losses import moderated
from pal.prototypes import Prototypes, Terms
from pal.questions import Questions, compact, tabulate
from pal.users import Population, UserWeights

__all__ = ["IDEAL_POINTS", "ModelConfig", "RewardModel", "check_data", "make_prototypes", "margin_moments"]


class RewardModel(nn.Module):
    """A personalised reward model (paper, section 2).

    Tensors inside; ids and texts stop at `reward`, `predict` and `with_users`.

    Args:
        config: what the model is.
        prototypes: the shared part.
        users: weights of the users it knows.
        population: what is known of a person of whom nothing is known; (K,) weights, or a density on the simplex.
    """

    def __init__(
        self,
        config: ModelConfig,
        prototypes: Prototypes,
        users: UserWeights,
        population: Population | Tensor,
    ) -> None:
        super().__init__()
        self.config, self.prototypes, self.users = config, prototypes, users
        prior = Population.of(population)
        self.register_buffer("atoms", prior.atoms.detach().clone().float())
        self.register_buffer("mass", prior.mass.detach().clone().float())
        precision = prior.precision
        self.register_buffer("precision", None if precision is None else precision.detach().clone().float())
        self.atoms: Tensor
        self.mass: Tensor
        self.precision: Tensor | None
        self.metrics: dict[str, Any] = {}
        self._encoders: dict[str, Encoder] = {}
        self.eval()

    @property
    def n_prototypes(self) -> int:
        """K."""
        return self.config.n_prototypes

    @property
    def prior(self) -> Population:
        """The density on the simplex from which new people come."""
        return Population(self.atoms, self.mass, self.precision)

    @property
    def population(self) -> Tensor:
        """(K,) weights of a person of whom nothing is known: the mean of the prior."""
        return self.prior.mean

    @property
    def user_ids(self) -> pl.Series:
        """(N,) ids of the users whose weights the model holds."""
        return self.users.ids

    # -- tensors ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prototype_rewards(self, prompts: Tensor | npt.ArrayLike | None, responses: Tensor | npt.ArrayLike) -> Tensor:
        """What each prototype alone gives a response.

        Args:
            prompts: (B, Dp) embeddings, or None where the model takes none.
            responses: (B, D) embeddings.

        Returns:
            (B, K), up to a constant per prompt; a user's reward is its dot product with the user's weights.
        """
        asked, given = self._embeddings(prompts, responses)
        self.eval()
        return self.prototypes.rewards(asked, given)

    @torch.no_grad()
    def margin(
        self,
        prompts: Tensor | npt.ArrayLike | None,
        left: Tensor | npt.ArrayLike,
        right: Tensor | npt.ArrayLike,
        weights: Tensor | npt.ArrayLike,
    ) -> Tensor:
        """reward(left) - reward(right), shape (B,), of embeddings (B, D) for user weights (B, K).

        Weights are taken as they are: that they are on the simplex is not checked.

        Raises:
            InputError: shapes that do not fit the model or one another.
        """
        (asked, one), (_, other) = self._embeddings(prompts, left), self._embeddings(prompts, right)
        w = tensor("weights", weights).float()
        if w.shape != (len(one), self.n_prototypes):
            raise InputError(f"weights must be ({len(one)}, {self.n_prototypes}), found {tuple(w.shape)}")
        if len(other) != len(one):
            raise InputError(f"left has {len(one)} embeddings and right {len(other)}: give as many of both")
        self.eval()
        return self.prototypes.reward(asked, one, w) - self.prototypes.reward(asked, other, w)

    def probability(self, margin: Tensor, variance: Tensor | None = None) -> Tensor:
        """P(left preferred), shape (B,), of margins (B,) known up to a variance (B,)."""
        slope = self.config.slope
        logit = slope * margin + self.config.side_bias
        return torch.sigmoid(logit if variance is None else moderated(logit, slope**2 * variance))

    def _embeddings(
        self, prompts: Tensor | npt.ArrayLike | None, responses: Tensor | npt.ArrayLike
    ) -> tuple[Tensor | None, Tensor]:
        """Embeddings of prompts (B, Dp) and of responses (B, D) as float32; refuses what this model does not take."""
        config, responses = self.config, tensor("responses", responses).float()
        prompts = None if prompts is None else tensor("prompts", prompts).float()
        if responses.ndim != 2 or responses.shape[1] != config.response_dim:
            raise InputError(
                f"embeddings of responses must be (B, {config.response_dim}), found {tuple(responses.shape)}"
            )
        if (prompts is None) != (config.prompt_dim == 0):
            wanted = f"(B, {config.prompt_dim})" if config.prompt_dim else "None"
            found = "None" if prompts is None else tuple(prompts.shape)
            raise InputError(f"embeddings of prompts must be {wanted}, found {found}")
        if prompts is not None and prompts.shape != (len(responses), config.prompt_dim):
            raise InputError(
                f"embeddings of prompts must be ({len(responses)}, {config.prompt_dim}), found {tuple(prompts.shape)}"
            )
        for name, vectors in (("responses", responses), ("prompts", prompts)):
            if vectors is not None and not bool(torch.isfinite(vectors).all()):
                raise InputError(f"embeddings of {name} must be finite: one holds NaN or infinity")
        return prompts, responses

    # -- data ---------------------------------------------------------------------------------------------------

    def questions(self, data: EmbeddedComparisons) -> tuple[Questions, Tensor]:
        """The distinct questions of data as this model takes them, and the question of each row (n,).

        Raises:
            InputError: the vectors are not of the kind the model was trained on.
        """
        check_data(self.config, data)
        questions, rows = tabulate(data)
        if self.config.prompt == "concatenate":
            questions = questions.concatenated()
        return questions, rows

    @torch.no_grad()
    def terms(self, questions: Questions) -> Terms:
        """What margins need of each question, in evaluation mode."""
        self.eval()
        return self.prototypes.terms(questions)

    def weights_of(self, user_ids: pl.Series) -> tuple[UserWeights, Tensor]:
        """The users with one more row, the population, and the row in it of each id (n,): the last where unseen."""
        rows = torch.from_numpy(self.users.rows(user_ids).copy())
        prior = self.prior
        table = self.users.with_unseen(prior.mean, prior.concentration)
        return table, torch.where(rows < 0, len(self.users), rows)

    @torch.no_grad()
    def moments(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor]:
        """The margin of each row (n,), and its variance (n,) as far as the user's weights are uncertain.

        Unseen users have the population's weights. Where margins are not linear in the weights the variance is 0.
        """
        return margin_moments(self.prototypes, *self._asked(data))

    def _asked(self, data: EmbeddedComparisons) -> tuple[Terms, UserWeights, Tensor, Tensor]:
        """Terms of the questions, the users with one row more, and the question and the user of each row (n,)."""
        questions, question = self.questions(data)
        table, rows = self.weights_of(data.comparisons.user_ids)
        return self.terms(questions), table, question, rows[torch.from_numpy(data.comparisons.user.astype(np.int64))]

    def margins(self, data: EmbeddedComparisons) -> Tensor:
        """The margin of each row (n,); unseen users have the population's weights."""
        return self.moments(data)[0]

    def predict(self, data: EmbeddedComparisons) -> npt.NDArray[np.float32]:
        """P(left preferred) of each row, shape (n,)."""
        return self.scores(data)[1].numpy()

    @torch.no_grad()
    def scores(self, data: EmbeddedComparisons) -> tuple[Tensor, Tensor]:
        """The margin of each row (n,) and P(left preferred) (n,).

        Of unseen users the first is that of the population's mean weights, the second the mean over the population.
        """
        terms, table, question, user = self._asked(data)
        margin, variance = margin_moments(self.prototypes, terms, table, question, user)
        probability = self.probability(margin, variance)
        unseen = (user == len(self.users)).nonzero().squeeze(1)
        if len(unseen) and terms.margins is not None and len(self.mass) > 1:
            asked, place = compact(question[unseen], len(terms.margins))
            pieces = [
                self.probability(m @ self.atoms.T) @ self.mass for m in torch.split(terms.margins[asked], 1 << 11)
            ]
            probability[unseen] = torch.cat(pieces).clamp(0, 1)[place]  # masses sum to one but for rounding
        return margin, probability

    # -- people -------------------------------------------------------------------------------------------------

    def with_users(self, users: UserWeights) -> "RewardModel":
        """A model that knows these users too; where it knew one, the new weights count."""
        if not isinstance(users, UserWeights):
            raise InputError(f"users must be what pal.adapt gives, found {users!r:.60}")
        if users.weights.shape[1] != self.n_prototypes:
            raise InputError(f"weights are over {users.weights.shape[1]} prototypes, the model has {self.n_prototypes}")
        return self._with(users=self.users.merged(users))

    def without_users(self, user_ids: Iterable[str | int]) -> "RewardModel":
        """A model that does not know these users.

        Raises:
            UnknownUserError: it does not know one of them now.
        """
        return self._with(users=self.users.without(user_ids))

    def _with_shared_part_of(self, other: "RewardModel") -> "RewardModel":
        """These users on another model's maps, prototypes and population."""
        model = RewardModel(other.config, other.prototypes, self.users, other.prior)
        model._encoders = self._encoders
        return model

    def _with(self, users: UserWeights | None = None, **config: Any) -> "RewardModel":
        changed = replace(self.config, **config)
        model = RewardModel(changed, self.prototypes, self.users if users is None else users, self.prior)
        model.metrics, model._encoders = self.metrics, self._encoders
        return model

    def user_weights(self, user_id: str | int | None, weights: Any = None) -> tuple[Tensor, float]:
        """Weights (K,) and reliability of one user, or the given weights; the population's for None."""
        if weights is not None:
            return self.on_simplex("weights", weights), 1.0
        if user_id is None:
            return self.population, 1.0
        row = self.users.row(user_id)
        return self.users.weights[row], float(self.users.reliability[row])

    def on_simplex(self, name: str, given: Any) -> Tensor:
        """A point (K,) on the simplex, as float32; refuses what is none."""
        try:
            point = torch.as_tensor(np.asarray(given, dtype=np.float32))
        except (TypeError, ValueError):
            point = torch.zeros(0)
        fits = point.shape == (self.n_prototypes,)
        if not fits or not bool((point >= 0).all()) or not abs(float(point.sum()) - 1) <= 1e-4:
            raise InputError(f"{name} must be {self.n_prototypes} numbers of at least 0 that sum to 1, found {given!r}")
        return point

    def encode(self, texts: list[Any], what: str = "responses", store: bool = False) -> npt.NDArray[np.float32]:
        """Embeddings (n, D) of texts or images, by the encoder the model was trained with; see `reward` for store."""
        name, revision = self.config.encoder, self.config.revision
        if what == "prompts":
            name, revision = self.config.prompt_encoder or name, self.config.prompt_revision or revision
        if name is None:
            raise InputError(f"this model was trained on own vectors: pass {what} as embeddings (n, D), not as texts")
        if name not in self._encoders:
            encoder = resolve_encoder(name)
            if revision is not None and encoder.revision != revision:
                raise InputError(
                    f"encoder {name!r} is here in revision {encoder.revision}, the model was trained with {revision}"
                )
            self._encoders[name] = encoder
        return encode(self._encoders[name], texts, store)

    @torch.no_grad()
    def reward(
        self,
        user_id: str | int | None = None,
        *,
        responses: Any,
        prompt: Any = None,
        weights: Any = None,
        store: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Rewards of responses for one user; higher = preferred.

        Args:
            user_id: a user the model knows; None with ``weights=`` or for the population.
            responses: n texts (or images), or their embeddings (n, D).
            prompt: a text, or its embedding (Dp,); None where the model takes none.
            weights: (K,) instead of an id.
            store: embeddings of texts are found in the user's cache, or kept there: a model whose texts are all there
                never loads its encoder.

        Returns:
            (n,), up to a constant per user and prompt.

        Raises:
            UnknownUserError: the user is unseen.
            InputError: a prompt is missing or not wanted, or vectors of the wrong size.
        """
        if user_id is not None and weights is not None:
            raise InputError("user_id and weights are both given: leave one out")
        w, reliability = self.user_weights(user_id, weights)
        prompts, given = self.vectors(prompt, responses, store)
        self.eval()
        return (reliability * self.prototypes.reward(prompts, given, w.expand(len(given), -1))).numpy()

    def vectors(self, prompt: Any, responses: Any, store: bool = False) -> tuple[Tensor | None, Tensor]:
        """Embeddings (n, Dp) of the prompt, None where the model takes none, and (n, D) of n responses.

        Args:
            prompt: as `reward` takes it.
            responses: likewise.
            store: likewise.

        Raises:
            InputError: a prompt is missing, something is empty or no text, or vectors are of the wrong size.
        """
        config = self.config
        if config.prompt != "none" and prompt is None:
            raise InputError("this model takes a prompt: pass prompt= (--prompt)")
        given = _vectors(responses)
        if given is None:
            shown = contents("responses", responses)
            if config.prompt == "joint":
                _refuse_other("prompt", [prompt])
                _refuse_other("responses", shown)
                shown = [f"{prompt}\n\n{text}" for text in shown]
            none = torch.zeros(0, config.response_dim)
            given = torch.from_numpy(self.encode(shown, store=store)) if shown else none
        prompts = None
        if config.prompt_dim:
            one = _vectors(prompt)
            if one is None:
                one = torch.from_numpy(self.encode(contents("prompt", [prompt]), "prompts", store))
            prompts = one.reshape(1, -1).expand(len(given), -1)
        return self._embeddings(prompts, given)

    # -- files --------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model folder: config.json, model.safetensors, users.parquet, metrics.json, README.md.

        A folder that was there is replaced as a whole; a kill leaves the old one or the new one.
        """
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        saving.write_folder(path_of("folder", folder), asdict(self.config), state, self.users.to_frame(), self.metrics)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Reads a model folder, or downloads one from the Hub by its id.

        Raises:
            SavedModelError: nothing there, or files that are truncated, changed or not of this kind.
        """
        config_values, state, users, metrics = saving.read_folder(folder)
        config = ModelConfig.from_dict(config_values)
        prototypes = make_prototypes(config, torch.Generator().manual_seed(0))
        try:
            table = UserWeights.from_frame(users, config.n_prototypes)
        except (InputError, pl.exceptions.PolarsError) as error:
            raise SavedModelError(f"{folder}: users.parquet does not fit config.json: {error}") from None
        size = state["atoms"].shape[0] if state.get("atoms", torch.zeros(0)).ndim == 2 else 1
        normal = torch.zeros(config.n_prototypes, config.n_prototypes) if "precision" in state else None
        empty = Population(torch.zeros(size, config.n_prototypes), torch.zeros(size), normal)
        model = cls(config, prototypes, table, empty)
        # of a folder that was written before there were shifts: none, as in a new model
        state = {k: v for k, v in model.state_dict().items() if k.endswith("input_shift")} | state
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise SavedModelError(f"{folder}: model.safetensors does not fit config.json: {detail}") from None
        model.metrics = metrics
        return model


def check_model(model: Any) -> None:
    """Refuses what is no reward model."""
    if not isinstance(model, RewardModel):
        raise InputError(f"model must be a pal.RewardModel, found {model!r:.60}")


def margin_moments(
    prototypes: Prototypes, terms: Terms, table: UserWeights, question: Tensor, user: Tensor
) -> tuple[Tensor, Tensor]:
    """Margins (B,) and their variances (B,) of answers to ``question`` (B,) by ``user`` (B,), rows of a table."""
    reliability = table.reliability[user]
    if not bool(table.concentration.isfinite().any()):
        margin = prototypes.margin(terms, table.weights, question, user)
        return margin * reliability, torch.zeros_like(margin)
    margin, spread = prototypes.moments(terms, table.weights, question, user)
    return margin * reliability, spread / (table.concentration[user] + 1) * reliability.square()


def _refuse_other(name: str, shown: list[Any]) -> None:
    """Anything but text would be written out as numbers and embedded as such."""
    for row, content in enumerate(shown):
        if not isinstance(content, str):
            raise InputError(
                f"{name}: item {row} is {type(content).__name__}: this model embeds a prompt and its response as one "
                "text: give texts, or all responses as one array of their embeddings (n, D)"
            )


def _vectors(given: Any) -> Tensor | None:
    """Embeddings as float32, or None where the argument is texts."""
    if isinstance(given, Tensor):
        return given.detach().float()
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32))
    return None
