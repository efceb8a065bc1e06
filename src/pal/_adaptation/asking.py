"""One person, answer by answer: their posterior, their weights, and the question that would tell most about them."""

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from pal._adaptation.one import solve_one
from pal._adaptation.prior import BARRIER
from pal._checks import number, whole
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.errors import InputError
from pal.losses import get_loss
from pal.model import RewardModel, check_model
from pal.questions import noise_of
from pal.users import Population

__all__ = ["Person", "next_comparison"]

Question = tuple[str | None, frozenset[str]]  # the ids of its prompt and of its two responses

_DRAWS = 512  # from the posterior of a person of whom only the weights are known
_LEVELS = 16  # at which an answer to one of a batch of questions is imagined


class Person:
    """A person who answers one question at a time.

    Each answer updates the posterior over the population's atoms and the weights, in about a millisecond (some twenty
    with a hinge loss, whose corners need another solver).

    Args:
        model: a model with margins linear in the weights.
        answered: what the person has answered so far, all rows theirs; None: nothing.
    """

    def __init__(self, model: RewardModel, answered: EmbeddedComparisons | None = None) -> None:
        check_model(model)
        if not model.prototypes.linear:
            raise InputError("margins of this model are not linear in the weights: questions cannot be chosen for it")
        self.model, K = model, model.n_prototypes
        self.atoms, self.log_mass = model.prior.atoms, model.prior.mass.log()
        self._told = torch.zeros(len(self.atoms))  # log-likelihood of the answers under each atom
        self.weights = model.population  # (K,)
        self._margins, self._labels, self._counts = np.zeros((0, K)), np.zeros(0), np.zeros(0)
        self._asked: set[Question] = set()
        if answered is not None:
            check_embedded(answered)
        if answered is not None and len(answered):
            table = answered.comparisons
            self._add(question_margins(model, answered), table.label, table.weight)
            self._asked.update(_questions(answered))

    def __len__(self) -> int:
        return len(self._labels)

    def answer(self, question: EmbeddedComparisons, label: float | None = None) -> None:
        """Takes one more answer.

        Args:
            question: one comparison.
            label: P(left preferred) as answered; None: the one in ``question``.

        Raises:
            InputError: not one comparison, or a label that is no number from 0 to 1.
        """
        check_embedded(question)
        if len(question) != 1:
            raise InputError(f"a person answers one comparison at a time, found {len(question)}")
        given: Any = float(question.comparisons.label[0]) if label is None else label
        if not isinstance(given, int | float | np.number) or not 0 <= given <= 1:
            raise InputError(f"label must be a number from 0 (right) to 1 (left), found {label!r}")
        self._add(question_margins(self.model, question), [given], question.comparisons.weight)
        self._asked.update(_questions(question))

    def was_asked(self, candidates: EmbeddedComparisons) -> npt.NDArray[np.bool_]:
        """(n,) whether the person has answered each comparison, on whichever side its responses were."""
        if not self._asked:
            return np.zeros(len(candidates), dtype=bool)
        return np.array([question in self._asked for question in _questions(candidates)], dtype=bool)

    @torch.no_grad()
    def _add(self, margins: Tensor, label: Any, weight: Any) -> None:
        y = torch.from_numpy(np.array(label, dtype=np.float32))
        c = torch.ones(len(y)) if weight is None else torch.from_numpy(np.array(weight, dtype=np.float32))
        config = self.model.config
        z = config.slope * (margins @ self.atoms.T) + config.side_bias
        self._told += c @ (z * y[:, None] - F.softplus(z))
        biased = (margins.double() + config.side_bias / config.slope).numpy()
        self._margins = np.concatenate([self._margins, biased])
        self._labels = np.concatenate([self._labels, y.double().numpy()])
        self._counts = np.concatenate([self._counts, c.double().numpy()])
        noise = self._noise()
        self.log_mass = torch.log_softmax(self.model.prior.mass.log() + self._told / noise, dim=0)
        centre = self.posterior.mean
        if self.model.n_prototypes == 1 or config.partition:
            self.weights = centre
            return
        strength, precision = config.strength, None
        if self.model.precision is not None:
            centre, strength, precision = self.model.population, BARRIER, self.model.precision.double().numpy()
        answers = (self._margins, self._labels, self._counts / noise)
        prior, start = centre.double().numpy(), self.weights.double().numpy()
        found = solve_one(*answers, prior, strength, get_loss(config.loss), start, precision)
        self.weights = torch.from_numpy(found).float()

    def _noise(self) -> float:
        """Of the answers, as `Answers.telling` has it."""
        soft, count = self._counts @ (self._labels * (1 - self._labels)), self._counts.sum()
        return max(self.model.config.noise, float(noise_of(torch.tensor(soft), torch.tensor(count))))

    @property
    def posterior(self) -> Population:
        """The density of this person's weights, given the answers."""
        return Population(self.atoms, self.log_mass.exp())


@torch.no_grad()
def next_comparison(
    model: RewardModel,
    user: "str | int | Person | None",
    candidates: EmbeddedComparisons,
    *,
    n: int | None = None,
    tie: float = 0.0,
    cost: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Any:
    """The candidate whose answer is expected to tell most about a person's weights.

    The expected information is that of an answer about the weights: the entropy of the answer less its mean entropy
    once the weights are known (Lindley, 1956; Houlsby et al., 2011, BALD).

    Args:
        model: with margins linear in the weights.
        user: a `Person`, with everything they answered; the id of a user the model knows, whose weights and
            concentration say where they may stand; None, or an unseen id: a new person.
        candidates: comparisons that could be asked; their labels and users do not matter. What a `Person` has
            answered is not asked again.
        n: None for one row; or that many rows, to be asked together: each chosen given that those before it will have
            been answered; a batch does not ask the same twice.
        tie: half-width of the probabilities around one half that the person would answer as a tie, from 0 to below
            0.5: P(tie) falls linearly from 1 at one half to 0 at 0.5 + 2 tie.
        cost: (len(candidates),) positive, as seconds to answer; information per cost counts.
        seed: of the draws, for a user of whom only the weights are known.

    Returns:
        A row of ``candidates`` (int), or rows (n,) int64, best first.

    Raises:
        InputError: no candidates, more rows wanted than are left to ask, or a cost that is not positive.
    """
    check_model(model)
    check_embedded(candidates)
    if user is not None and (isinstance(user, bool) or not isinstance(user, str | Integral | Person)):
        raise InputError(f"user must be the id of a user, a pal.Person or None, found {user!r:.60}")
    size, wanted = len(candidates), 1 if n is None else whole("n", n)
    number("tie", tie, least=0, below=0.5)
    whole("seed", seed, least=0)
    if isinstance(user, Person) and user.model.prototypes is not model.prototypes:
        raise InputError("this person answered for another model: make a Person of this one")
    try:
        price = np.ones(size) if cost is None else np.array(cost, dtype=np.float64)
    except (TypeError, ValueError):
        price = np.zeros(0)
    if price.shape != (size,) or not (price > 0).all() or not np.isfinite(price).all():
        raise InputError(f"cost must be {size} positive numbers")
    at = _cheapest(candidates, price)
    questions = candidates.take(at)
    asked = user.was_asked(questions) if isinstance(user, Person) else np.zeros(len(at), dtype=bool)
    if asked.all():
        raise InputError("there are no candidates to choose from" + (": all were answered" if size else ""))
    left = int((~asked).sum())
    if wanted > left:
        raise InputError(f"n must be at most the number of questions left to ask, {left}, found {n}")
    belief = _belief(model, user, seed)
    config = model.config
    z = config.slope * (question_margins(model, questions) @ belief.atoms.T) + config.side_bias
    answers = _answers(torch.sigmoid(z), tie)  # (answers, candidates, atoms)
    each = torch.from_numpy(price[at])
    mass = belief.mass[None]  # (imagined pasts, atoms)
    share = torch.ones(1)
    rows: list[int] = []
    open_ = _entropy(answers)  # of an answer, though the weights are known
    for _ in range(wanted):
        gain = (_entropy(answers @ mass.T) - open_ @ mass.T) @ share / each
        gain[torch.from_numpy(asked)] = -torch.inf
        best = int(gain.argmax())
        rows.append(int(at[best]))
        asked[best] = True
        # imagine each answer to it; keep the likelier pasts where there are many
        futures = mass[:, None, :] * answers[None, :, best, :]
        chance = futures.sum(2)
        mass = (futures / chance.clamp(min=1e-12)[:, :, None]).flatten(0, 1)
        share = (share[:, None] * chance).flatten()
        top = share.topk(min(_LEVELS, len(share))).indices
        mass, share = mass[top], share[top] / share[top].sum()
    return rows[0] if n is None else np.array(rows, dtype=np.int64)


def _questions(data: EmbeddedComparisons) -> list[Question]:
    """What each row asks, by the ids of its items."""
    table = data.comparisons
    sides = table.responses.ids[np.concatenate([table.left, table.right])].to_list()
    prompts: list[str | None] = [None] * len(table)
    if table.prompts is not None and table.prompt is not None:
        prompts = table.prompts.ids[table.prompt].to_list()
    pairs = zip(prompts, sides[: len(table)], sides[len(table) :], strict=True)
    return [(prompt, frozenset(pair)) for prompt, *pair in pairs]


def _cheapest(data: EmbeddedComparisons, price: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Ascending rows, one a question, which may stand in many, as asked of many people: of the cheapest the first."""
    table = data.comparisons
    prompt = np.zeros(len(table), dtype=np.int64) if table.prompt is None else table.prompt.astype(np.int64)
    keys = [prompt, np.minimum(table.left, table.right), np.maximum(table.left, table.right)]
    order = np.lexsort((price, *keys))  # stable
    sorted_keys = np.stack(keys)[:, order]
    first = np.flatnonzero(np.r_[True, (sorted_keys[:, 1:] != sorted_keys[:, :-1]).any(0)][: len(table)])
    return np.sort(order[first])


def question_margins(model: RewardModel, data: EmbeddedComparisons) -> Tensor:
    """Differences of prototype rewards (n, K) of each row."""
    questions, rows = model.questions(data)
    margins = model.terms(questions).margins
    if margins is None:
        raise InputError("margins of this model are not linear in the weights: questions cannot be chosen for it")
    return margins[rows]


def _belief(model: RewardModel, user: "str | int | Person | None", seed: int) -> Population:
    if isinstance(user, Person):
        return user.posterior
    name = int(user) if isinstance(user, Integral) else user
    row = -1 if name is None else int(model.users.rows(pl.Series([name]))[0])
    if row < 0:
        return model.prior
    concentration = float(model.users.concentration[row])
    weights = model.users.weights[row]
    if not np.isfinite(concentration):  # all that is known is how many answers there were
        concentration = model.config.strength + float(model.users.n_comparisons[row])
    rng = np.random.default_rng(seed)
    draws = rng.gamma((concentration * weights.double().numpy()).clip(1e-3), size=(_DRAWS, len(weights)))
    atoms = torch.from_numpy(draws + 1e-12).float()
    return Population(atoms / atoms.sum(1, keepdim=True), torch.full((_DRAWS,), 1 / _DRAWS))


def _answers(p: Tensor, tie: float) -> Tensor:
    """Probabilities (answers, candidates, atoms) of left, right and, where people may say so, a tie."""
    if not tie:
        return torch.stack([p, 1 - p])
    middle = (1 - (p - 0.5).abs() / (2 * tie)).clamp(min=0)
    return torch.stack([p * (1 - middle), (1 - p) * (1 - middle), middle])


def _entropy(answers: Tensor) -> Tensor:
    """In nats, of probabilities (answers, ...)."""
    return -(answers * answers.clamp(min=1e-12).log()).sum(0)
