"""Populations whose prototypes and weights are known: those of the paper (E.1, E.3), and a town for demonstrations."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import number, one_of, path_of, whole
from pal._tables.files import write_frame
from pal.comparisons import Comparisons, Items
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError

__all__ = ["Population", "demo", "population", "write"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

MODELS = ("a", "b")
KINDS = ("partition", "mixture", "homogeneous")
_TRIES = 10_000  # points drawn before prototypes at a distance from one another are called impossible
_BLOCK = 1 << 16  # comparisons whose margins are computed at once: bounds the memory

_GROUPS = ("gardeners", "keepers", "makers")
_GROUP_SHARES = (0.40, 0.35, 0.25)
_GAIN = 4.0  # log-odds to agree with a statement that one leans to fully
_PASS = 0.2  # share who pass where they are of two minds


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Population(EmbeddedComparisons):
    """Simulated comparisons together with the truth behind them; parts of it keep the truth.

    Attributes:
        model: "a" or "b".
        weights: (N, K) where users stand, rows as `comparisons.user_ids`.
        assignment: (N,) the prototype of each user; of a mixture the one that weighs most.
        map: (d, D) f*, with d = D.
        prototypes: model A: (K, D) points where items live; model B: (K, d, D), the maps g*_k of prompts.
        temperature: of the answers: P(left preferred) = sigmoid(margin / temperature); 0: no noise.
    """

    model: str
    weights: Array
    assignment: Index
    map: Array
    prototypes: Array
    temperature: float

    @property
    def data(self) -> EmbeddedComparisons:
        """The comparisons alone, for what must not see the truth."""
        return EmbeddedComparisons(self.comparisons, self.responses, self.prompts)

    @property
    def ideal_points(self) -> Array:
        """(N, d) of model A: f*(P w).

        Raises:
            InputError: model B, whose ideal points depend on the prompt.
        """
        if self.model != "a":
            raise InputError("users of model B have an ideal point for each prompt: see margins()")
        return self.weights @ self.prototypes @ self.map.T

    def margins(self) -> Array:
        """(n,) true reward(left) - reward(right): of squared distances in model A, of cosines in model B."""
        rows, n = self.comparisons, len(self)
        latent = self.responses.astype(np.float64) @ self.map.T
        margins = np.empty(n)
        if self.model == "a":
            square, ideal = np.einsum("rd,rd->r", latent, latent), self.ideal_points
        else:
            latent, directions = _unit(latent), self._directions()
        for block in (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)):
            user, left, right = rows.user[block], rows.left[block], rows.right[block]
            difference = latent[left] - latent[right]
            if self.model == "a":
                dot = np.einsum("nd,nd->n", difference, ideal[user])
                margins[block] = 2 * dot - (square[left] - square[right])
            elif rows.prompt is not None:
                rewards = np.einsum("nd,nkd->nk", difference, directions[rows.prompt[block]])
                margins[block] = np.einsum("nk,nk->n", rewards, self.weights[user])
        return margins

    def _directions(self) -> Array:
        """(P, K, d) g*_k(x_c), each of length 1."""
        prompts = np.zeros((0, self.map.shape[1])) if self.prompts is None else self.prompts.astype(np.float64)
        return _unit(np.einsum("kde,pe->pkd", self.prototypes, prompts))

    def probabilities(self) -> Array:
        """(n,) true P(left preferred): the best that any model can say."""
        margins = self.margins()
        if self.temperature == 0:
            return (np.sign(margins) + 1) / 2
        return _sigmoid(margins / self.temperature)


def population(
    model: str = "a",
    n_users: int = 100,
    n_prototypes: int = 3,
    dim: int = 16,
    per_user: int | Sequence[int] | npt.NDArray[np.integer[Any]] = 100,
    kind: str = "partition",
    seed: int = 0,
    *,
    delta: float = 1.0,
    noise: float = 0.0,
    n_items: int | None = None,
    n_prompts: int | None = None,
) -> Population:
    """Simulates people who compare items, as the paper does (E.1).

    Model A: items and prototypes are drawn from N(0, I/d), the entries of the linear f* from N(0, 1), and of two items
    a person prefers the one nearer to their ideal point f*(P w). Model B: prompts and responses are drawn from
    N(0, I/d), the entries of f* and of K linear maps g*_k of prompts from N(0, 1), and a person prefers the response
    whose f*(x) has the larger cosine with the g*_k(x_c), weighted by w.

    Truth, people, items and noise are drawn apart: with another `per_user`, or more users, the same seed gives the
    same prototypes, and the same first users.

    Args:
        model: "a" or "b".
        n_users: N.
        n_prototypes: K. Homogeneous populations have one, whatever is said here.
        dim: d, of items, prompts and the latent space.
        per_user: comparisons of each user, or (N,) of them.
        kind: "partition" (each user at one prototype, as many at each), "mixture" (weights uniform on the simplex) or
            "homogeneous" (all at the same point).
        seed: the same seed gives the same population.
        delta: least distance between two prototypes of model A.
        noise: temperature of the answers, in standard deviations of the margin: a person prefers left with probability
            sigmoid(margin / (noise * std)). At 0 they never err, at 0.5 in about one answer of six.
        n_items: draw the items of every comparison from a catalogue of this size; None: two new ones each time.
        n_prompts: likewise for the prompts of model B.

    Returns:
        The comparisons with the vectors of their items (ids "x...", "q...", users "u..."), and the truth.

    Raises:
        InputError: an argument out of range, or no prototypes so far apart.
    """
    one_of("model", model, MODELS)
    one_of("kind", kind, KINDS)
    for name, value, least in (
        ("n_users", n_users, 1),
        ("n_prototypes", n_prototypes, 1),
        ("dim", dim, 1),
        ("n_items", n_items, 2),
        ("n_prompts", n_prompts, 1),
        ("seed", seed, 0),
    ):
        if value is not None:
            whole(name, value, least)
    number("delta", delta, least=0)
    number("noise", noise, least=0)
    if n_prompts is not None and model == "a":
        raise InputError("n_prompts is for model 'b': model 'a' is simulated without prompts")
    k = 1 if kind == "homogeneous" else n_prototypes
    truth, people, items, answers = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4))

    f = truth.standard_normal((dim, dim))
    prototypes = _distant(truth, k, dim, delta) if model == "a" else truth.standard_normal((k, dim, dim))
    assignment, weights = _weights(people, n_users, k, kind)

    user = np.repeat(np.arange(n_users, dtype=np.int32), _counts(per_user, n_users))
    n = len(user)
    left, right, n_responses = _pairs(items, n, n_items)
    responses = items.standard_normal((n_responses, dim), np.float32) / np.float32(np.sqrt(dim))
    prompt = prompts = prompt_table = None
    if model == "b":
        size = n if n_prompts is None else n_prompts
        prompt = np.arange(n, dtype=np.int32) if n_prompts is None else items.integers(0, size, n, dtype=np.int32)
        prompts = items.standard_normal((size, dim), np.float32) / np.float32(np.sqrt(dim))
        prompt_table = Items(_ids("q", size), None, "id")
    comparisons = Comparisons(
        user=user,
        left=left,
        right=right,
        prompt=prompt,
        label=np.full(n, 0.5, np.float32),
        weight=None,
        timestamp=None,
        assigned=None,
        user_ids=_ids("u", n_users).alias("user_id"),
        responses=Items(_ids("x", n_responses), None, "id"),
        prompts=prompt_table,
        sided=True,
    )
    asked = Population(
        comparisons=comparisons,
        responses=responses,
        prompts=prompts,
        model=model,
        weights=weights,
        assignment=assignment,
        map=f,
        prototypes=prototypes,
        temperature=0.0,
    )
    if noise > 0:
        asked = replace(asked, temperature=noise * float(asked.margins().std()))
    chance = asked.probabilities()
    label = chance if noise == 0 else answers.random(n) < chance
    return replace(asked, comparisons=replace(comparisons, label=label.astype(np.float32)))


def demo(n_users: int = 300, seed: int = 0) -> Comparisons:
    """The people of a small town that does not exist, on 250 statements about its everyday questions.

    Three groups lean to them as `data/town.tsv` says: gardeners, keepers and makers. A person stands near one group
    (one in six: between them) and is asked 40 to 80 statements. They agree with log-odds in proportion to their own
    leaning, and pass the more often the less they lean.

    Args:
        n_users: people.
        seed: the same seed gives the same people.

    Returns:
        The statement is the prompt, "Agree" (left) and "Disagree" are the responses, a pass is a tie.

    Raises:
        InputError: n_users is not positive.
    """
    whole("n_users", n_users)
    whole("seed", seed, least=0)
    statements = _statements()
    leanings = statements.select(_GROUPS).to_numpy()
    random = np.random.default_rng(seed)
    group = random.choice(len(_GROUPS), n_users, p=_GROUP_SHARES)
    near = 0.4 + 7.0 * np.eye(len(_GROUPS))[group]
    between = random.random(n_users) < 1 / 6
    gamma = random.standard_gamma(np.where(between[:, None], 1.5, near))
    weights = gamma / gamma.sum(axis=1, keepdims=True)

    counts = random.integers(40, 81, n_users)
    user = np.repeat(np.arange(n_users), counts)
    order = random.random((n_users, len(statements))).argsort(axis=1)
    statement = order[np.arange(len(statements)) < counts[:, None]]
    logit = _GAIN * np.einsum("nk,nk->n", weights[user], leanings[statement])
    chance = _sigmoid(logit)
    label = (random.random(len(user)) < chance).astype(np.float64)
    label[random.random(len(user)) < _PASS * 4 * chance * (1 - chance)] = 0.5
    return Comparisons.from_columns(
        user_id=[f"resident-{row:03d}" for row in user + 1],
        prompt=statements["statement"].gather(statement),
        left=["Agree"] * len(user),
        right=["Disagree"] * len(user),
        label=label,
    )


def _statements() -> pl.DataFrame:
    """topic, statement, and how each group leans to it, from -1 (against) to 1 (for)."""
    text = resources.files("pal").joinpath("data/town.tsv").read_bytes()
    return pl.read_csv(io.BytesIO(text), separator="\t", schema_overrides=dict.fromkeys(_GROUPS, pl.Float64))


def _weights(random: np.random.Generator, n_users: int, k: int, kind: str) -> tuple[Index, Array]:
    """Prototypes (N,) and weights (N, K) of users."""
    if kind == "mixture":
        weights = random.dirichlet(np.ones(k), n_users)
        return weights.argmax(axis=1), weights
    # every K users in a row stand at K prototypes
    rounds = np.tile(np.arange(k), (-(-n_users // k), 1))
    assignment = random.permuted(rounds, axis=1).reshape(-1)[:n_users]
    return assignment, np.eye(k)[assignment]


def _distant(random: np.random.Generator, k: int, dim: int, delta: float) -> Array:
    """K points of N(0, I/d), (K, d), none nearer than delta to another."""
    points = np.empty((0, dim))
    for _ in range(_TRIES):
        point = random.standard_normal(dim) / np.sqrt(dim)
        if (np.linalg.norm(points - point, axis=1) >= delta).all():
            points = np.vstack([points, point])
        if len(points) == k:
            return points
    raise InputError(f"no {k} prototypes of dimension {dim} at distance {delta} found: lower delta or n_prototypes")


def _counts(per_user: int | Sequence[int] | npt.NDArray[np.integer[Any]], n_users: int) -> Index:
    counts = np.asarray(per_user)
    if not np.issubdtype(counts.dtype, np.integer) or counts.shape not in ((), (n_users,)) or (counts < 1).any():
        raise InputError(f"per_user must be a whole number of at least 1, or {n_users} of them, found {per_user!r}")
    return np.broadcast_to(counts.astype(np.int64), n_users)


def _pairs(
    random: np.random.Generator, n: int, n_items: int | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]:
    """Left and right (n,), two different items each, and how many items there are."""
    if n_items is None:
        both = np.arange(2 * n, dtype=np.int32)
        return both[0::2].copy(), both[1::2].copy(), 2 * n
    left = random.integers(0, n_items, n, dtype=np.int32)
    other = random.integers(1, n_items, n, dtype=np.int32)
    return left, (left + other) % np.int32(n_items), n_items


def _ids(letter: str, n: int) -> pl.Series:
    """(n,) "x0001", "x0002" and so on, of equal length."""
    numbers = pl.int_range(1, n + 1, eager=True).cast(pl.String).str.zfill(max(4, len(str(n))))
    return (letter + numbers).alias("id")


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))  # without overflow for any x


def write(population: Population, folder: str | Path) -> tuple[Path, Path, Path]:
    """Writes comparisons.parquet, embeddings.parquet (id, embedding), truth.parquet (user_id, weights, prototype)."""
    folder = path_of("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "comparisons.parquet", folder / "embeddings.parquet", folder / "truth.parquet"
    if not paths[2].exists() and (there := next((path for path in paths if path.exists()), None)):
        raise InputError(f"{there} is there, of no simulation: choose another folder")
    table = population.comparisons
    vectors = [pl.DataFrame({"id": table.responses.ids, "embedding": population.responses})]
    if table.prompts is not None and population.prompts is not None:
        vectors.append(pl.DataFrame({"id": table.prompts.ids, "embedding": population.prompts}))
    truth = pl.DataFrame({"user_id": table.user_ids, "weights": population.weights, "prototype": population.assignment})
    for frame, path in zip((table.to_frame(), pl.concat(vectors), truth), paths, strict=True):
        write_frame(frame, path)
    return paths
