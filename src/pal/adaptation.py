"""Weights of new users from a few of their answers, the shared part frozen.

The population is a density on the simplex, learned from the training users (`pal._adaptation.prior`). A person's
posterior mean under it is their prior; around it their weights minimise, over the simplex,

    J(w) = sum_j weight_j loss(label_j, w . m_j) + strength KL(prior || w),

or, where training found people to be a continuum, J with a normal prior around the population's mean beside it; which
in the linear variants is convex and solved to a certificate, for all users at once (`pal._adaptation.solver`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._adaptation.asking import Person, next_comparison
from pal._adaptation.fitting import fit_weights, uncertainty
from pal._adaptation.prior import BARRIER, Prior, posterior
from pal._adaptation.solver import TOLERANCE, Solution, solve_weights
from pal._checks import number
from pal.embeddings import EmbeddedComparisons, check_embedded
from pal.model import RewardModel, check_model
from pal.questions import Answers
from pal.users import Population, UserWeights, concentration_of

__all__ = ["TOLERANCE", "AdaptedUsers", "Person", "Solution", "adapt", "next_comparison", "solve_weights"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedUsers(UserWeights):
    """Weights of new users; `RewardModel.with_users` takes them. How sure they are: `concentration` and `sd`.

    Attributes:
        gap: (N,) float64, the certificate of each; see `Solution`.
    """

    gap: npt.NDArray[np.float64]

    @property
    def user_ids(self) -> pl.Series:
        """(N,) ids."""
        return self.ids


@torch.no_grad()
def adapt(
    model: RewardModel,
    few: EmbeddedComparisons,
    *,
    strength: float | None = None,
    prior: Tensor | npt.ArrayLike | None = None,
) -> AdaptedUsers:
    """Weights of the users in ``few``, from their answers there; the shared part stays as it is.

    Of a user whom the model knows this is not added to what it knew: give all their answers, or go on training with
    `pal.fit(..., start=model)`.

    Args:
        model: the model to adapt.
        few: the users' comparisons, embedded as the model's training data were.
        strength: of KL(prior || w); None for the one chosen in training.
        prior: (K,) what everybody is shrunk towards (where each person is one prototype: how likely each is); None for
            each person's posterior mean under the population. With neither given, and people found to be a continuum,
            they are held to its normal density instead.

    Raises:
        InputError: the vectors are not of the kind the model was trained on, a strength that is not positive, or a
            prior that is not on the simplex.
    """
    check_model(model)
    check_embedded(few)
    as_trained = strength is None and prior is None
    strength = model.config.strength if strength is None else strength
    number("strength", strength)
    if prior is not None:
        prior = model.on_simplex("prior", prior)
    table = few.comparisons
    present, user = np.unique(table.user, return_inverse=True)
    n, ids = len(present), table.user_ids.gather(present)
    questions, question = model.questions(few)
    terms = model.terms(questions)
    weight = None if table.weight is None else torch.from_numpy(table.weight.copy())
    answers = Answers(torch.from_numpy(user.astype(np.int64)), question, torch.from_numpy(table.label.copy()), weight)
    if as_trained:
        answers = answers.telling(model.config.noise, n)
    if as_trained and model.precision is not None:
        held = Prior.at(model.population, n, BARRIER, model.precision)
    elif prior is None:
        held = Prior(*posterior(model, model.prior, terms, answers, n), strength)
    elif (
        model.config.partition
    ):  # which prototype a person is follows from the answers: the prior is how likely each is
        kinds = Population(torch.eye(model.n_prototypes), prior.clamp(min=1e-6))
        held = Prior(*posterior(model, kinds, terms, answers, n), strength)
    else:
        held = Prior.at(prior, n, strength)
    solution = fit_weights(model, terms, answers, n, held)
    variance, _ = uncertainty(model, terms, answers, solution.weights, held)
    return AdaptedUsers(
        ids,
        solution.weights,
        torch.from_numpy(np.bincount(user, minlength=n).astype(np.int64)),
        torch.ones(n),
        concentration_of(solution.weights, variance),
        gap=solution.gap.numpy(),
    )
