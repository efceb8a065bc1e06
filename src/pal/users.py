"""User weights: each user's point on the simplex, found by id; and the population they come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal.errors import InputError, UnknownUserError

__all__ = ["Population", "UserWeights", "matched", "rows_of", "simplex"]


def simplex(logits: Tensor) -> Tensor:
    """The softmax of each row of logits (n, K), as points on the simplex (n, K).

    By columns: torch's softmax of rows as short as these is five to twenty times slower.
    """
    return torch.softmax(logits.T.contiguous(), dim=0).T


def rows_of(ids: pl.Series, table: pl.Series) -> npt.NDArray[np.int64]:
    """Row of each id (n,) in a table of unique ids; -1 where it is not there."""
    if ids.dtype != table.dtype:  # 1 and "1" are different people
        return np.full(len(ids), -1, dtype=np.int64)
    right = pl.DataFrame({"id": table}).with_row_index("row")
    found = pl.DataFrame({"id": ids}).join(right, on="id", how="left", maintain_order="left")["row"]
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def row_of(user_id: Any, table: pl.Series) -> int:
    """Row of one id; -1 where it is not there."""
    if isinstance(user_id, bool) or not isinstance(user_id, str | Integral):
        return -1
    name = user_id if isinstance(user_id, str) else int(user_id)  # of any width
    return int(rows_of(pl.Series([name]), table)[0])


def matched(ids: pl.Series, table: pl.Series, where: str) -> npt.NDArray[np.int64]:
    """`rows_of`, where nobody would be found because the ids are of another type.

    Raises:
        InputError: they are.
    """
    if len(ids) and len(table) and ids.dtype != table.dtype:
        raise InputError(
            f"user ids are {ids.dtype} here and {table.dtype} in {where}: read them as the same type "
            "(csv ids are always strings)"
        )
    return rows_of(ids, table)


@dataclass(frozen=True, eq=False)
class Population:
    """What is known of a person of whom nothing is known: a density on the simplex, as atoms with masses.

    Attributes:
        atoms: (M, K) float32, each on the simplex.
        mass: (M,) float32, positive, summing to 1.
        precision: (K, K) float32, of the normal density around their mean that a new person's weights are held to;
            None: to the posterior under the atoms.
    """

    atoms: Tensor
    mass: Tensor
    precision: Tensor | None = None

    @classmethod
    def of(cls, given: "Population | Tensor") -> "Population":
        """A population, or one in which everybody has the given weights (K,)."""
        if isinstance(given, Population):
            return given
        return cls(given.detach().float()[None], torch.ones(1))

    @property
    def mean(self) -> Tensor:
        """(K,) the mean weights: those of a new person."""
        mean = self.mass @ self.atoms
        return mean / mean.sum()

    @property
    def concentration(self) -> float:
        """Of the Dirichlet distribution with the same mean and the same total variance; inf for a single atom."""
        mean = self.mean
        spread = self.mass @ (self.atoms - mean).square()
        return float(concentration_of(mean[None], spread[None])[0])


def concentration_of(mean: Tensor, variance: Tensor) -> Tensor:
    """Concentration (U,) of the Dirichlet distributions whose mean is (U, K) and whose variances sum to those given."""
    total = variance.sum(1)
    return torch.where(total > 1e-9, (mean * (1 - mean)).sum(1) / total.clamp(min=1e-9) - 1, torch.inf).clamp(min=1e-2)


@dataclass(frozen=True, eq=False)
class UserWeights:
    """Weights of N users.

    Attributes:
        ids: (N,) String or Int64, unique.
        weights: (N, K) float32, each row on the simplex.
        n_comparisons: (N,) int64, answers each row was learned from.
        reliability: (N,) float32, positive: each user's margins are this many times w . m; all ones unless learned.
        concentration: (N,) float32, how sure the weights are: a person's posterior is about that of a Dirichlet with
            this concentration around them; inf where nothing is known of it.
    """

    ids: pl.Series
    weights: Tensor
    n_comparisons: Tensor
    reliability: Tensor
    concentration: Tensor = None  # type: ignore[assignment] # set below

    def __post_init__(self) -> None:
        n = len(self.ids)
        if getattr(self, "concentration", None) is None:
            object.__setattr__(self, "concentration", torch.full((n,), torch.inf))
        if self.weights.ndim != 2 or len(self.weights) != n or self.weights.dtype != torch.float32:
            raise InputError(f"weights must be float32 ({n}, K), found {tuple(self.weights.shape)}")
        if not len(self.n_comparisons) == len(self.reliability) == len(self.concentration) == n:
            raise InputError(f"n_comparisons, reliability and concentration must have one value a user, {n}")
        if n and not bool(torch.isfinite(self.weights).all()):
            raise InputError("weights must be finite")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sd(self) -> Tensor:
        """(N, K) standard deviation of each weight, as far as its user's answers leave it open."""
        return (self.weights * (1 - self.weights) / (self.concentration[:, None] + 1)).sqrt()

    @classmethod
    def none(cls, n_prototypes: int, ids: pl.Series | None = None) -> "UserWeights":
        """A table of no users."""
        ids = pl.Series("user_id", [], dtype=pl.String) if ids is None else ids.clear()
        empty = torch.zeros(0)
        return cls(ids, torch.zeros(0, n_prototypes), empty.long(), empty)

    def rows(self, ids: pl.Series) -> npt.NDArray[np.int64]:
        """Row of each id (n,), -1 for unseen users.

        Raises:
            InputError: ids of another type than the table's: nobody would be found.
        """
        return matched(ids, self.ids, "the model")

    def row(self, user_id: str | int) -> int:
        """Row of one user.

        Raises:
            UnknownUserError: the user is unseen.
        """
        row = row_of(user_id, self.ids)
        if row < 0:
            raise UnknownUserError(
                f"user {user_id!r} is unseen: call pal.adapt with some of their comparisons, or pass weights="
            )
        return row

    def with_unseen(self, weights: Tensor, concentration: Tensor | float) -> "UserWeights":
        """These users with one more row, for people who are not among them: their weights (K,) and concentration."""
        return UserWeights(
            pl.concat([self.ids.alias("user_id"), pl.Series("user_id", [None], dtype=self.ids.dtype)]),
            torch.cat([self.weights, weights[None]]),
            torch.cat([self.n_comparisons, torch.zeros(1, dtype=torch.long)]),
            torch.cat([self.reliability, torch.ones(1)]),
            torch.cat([self.concentration, torch.as_tensor(concentration, dtype=torch.float32).reshape(1)]),
        )

    def merged(self, other: "UserWeights") -> "UserWeights":
        """These users and the others; where a user is in both, the other's weights count."""
        if not len(other):
            return self
        if not len(self):
            return other
        if self.ids.dtype != other.ids.dtype:
            raise InputError(
                f"user ids are {self.ids.dtype} in the model and {other.ids.dtype} here: use one type for both"
            )
        keep = np.flatnonzero(rows_of(self.ids, other.ids) < 0)
        kept = self.take(keep)
        return UserWeights(
            pl.concat([kept.ids.alias("user_id"), other.ids.alias("user_id")]),
            torch.cat([kept.weights, other.weights]),
            torch.cat([kept.n_comparisons, other.n_comparisons]),
            torch.cat([kept.reliability, other.reliability]),
            torch.cat([kept.concentration, other.concentration]),
        )

    def take(self, rows: npt.NDArray[np.int64]) -> "UserWeights":
        """The users at these rows (m,)."""
        index = torch.from_numpy(np.ascontiguousarray(rows))
        return UserWeights(
            self.ids.gather(rows),
            self.weights[index],
            self.n_comparisons[index],
            self.reliability[index],
            self.concentration[index],
        )

    def without(self, user_ids: Iterable[str | int]) -> "UserWeights":
        """These users but for some.

        Raises:
            UnknownUserError: one of them is not here.
            InputError: one id instead of a list of them.
        """
        if isinstance(user_ids, str | int) or not isinstance(user_ids, Iterable):
            hint = "" if user_ids is None else f": write [{user_ids!r}]"
            raise InputError(f"user_ids must be a list of ids, found {user_ids!r}{hint}")
        user_ids = list(user_ids)
        kind: Any = Integral if self.ids.dtype == pl.Int64 else str
        unknown = [each for each in user_ids if not isinstance(each, kind) or isinstance(each, bool)]
        if not unknown:
            gone = rows_of(pl.Series(user_ids, dtype=self.ids.dtype), self.ids)
            unknown = [each for each, row in zip(user_ids, gone, strict=True) if row < 0]
        if unknown:
            raise UnknownUserError(f"user {unknown[0]!r} is not known: there is nothing to remove")
        keep = np.ones(len(self), dtype=bool)
        keep[gone] = False
        return self.take(np.flatnonzero(keep))

    def to_frame(self) -> pl.DataFrame:
        """user_id, n_comparisons, weights (list of K), and reliability and concentration where they were learned."""
        columns = [
            self.ids.alias("user_id"),
            pl.Series("n_comparisons", self.n_comparisons.numpy()),
            pl.Series("weights", self.weights.numpy(), dtype=pl.Array(pl.Float32, self.weights.shape[1])),
        ]
        if bool((self.reliability != 1).any()):
            columns.append(pl.Series("reliability", self.reliability.numpy()))
        if bool(self.concentration.isfinite().any()):
            columns.append(pl.Series("concentration", self.concentration.numpy()))
        return pl.DataFrame(columns)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, n_prototypes: int) -> "UserWeights":
        """The users of `to_frame`.

        Raises:
            InputError: no such columns, ids that are not unique strings or integers, weights that are not K numbers on
                the simplex.
        """
        missing = {"user_id", "n_comparisons", "weights"} - set(frame.columns)
        if missing:
            raise InputError(f"the table of users has no column {min(missing)!r} (found: {', '.join(frame.columns)})")
        ids = frame["user_id"]
        if ids.dtype not in (pl.String, pl.Int64) or ids.null_count() or ids.n_unique() != len(ids):
            raise InputError("user_id must be unique strings or integers")
        try:
            weights = frame["weights"].cast(pl.Array(pl.Float32, n_prototypes)).to_numpy()
        except pl.exceptions.PolarsError:
            raise InputError(
                f"weights must be lists of {n_prototypes} numbers, found {frame['weights'].dtype}"
            ) from None
        n = len(frame)
        if n and not bool((weights >= 0).all() and (abs(weights.sum(1) - 1) < 1e-3).all()):
            raise InputError("weights must be at least 0 and sum to 1")

        def column(name: str) -> Tensor | None:
            return torch.from_numpy(frame[name].to_numpy().copy()).float() if name in frame.columns else None

        reliability = column("reliability")
        return cls(
            frame["user_id"],
            torch.from_numpy(np.array(weights, dtype=np.float32).reshape(n, n_prototypes)),
            torch.from_numpy(frame["n_comparisons"].cast(pl.Int64).to_numpy().copy()),
            torch.ones(n) if reliability is None else reliability,
            column("concentration"),  # type: ignore[arg-type] # None: inf
        )
