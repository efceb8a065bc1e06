"""Persona: people simulated from statements that a persona would or would not say, as in the paper (E.2.1, E.5).

The statements are Anthropic's model-written evaluations (github.com/anthropics/evals, folder `persona`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import one_of, whole
from pal.comparisons import Comparisons
from pal.datasets._files import folder_of, read_file, votes_on
from pal.errors import InputError

__all__ = ["persona"]

IntArray = npt.NDArray[np.int32]

# the paper's Table 5: its row for K takes the first K
_PERSONAS = tuple(f"interest-in-{topic}" for topic in ("art", "literature", "math", "music", "science", "sports"))
FILES = tuple(f"{name}.jsonl" for name in _PERSONAS[:2])
_ANSWER = "answer_matching_behavior"
_BLOCK = 1024  # people drawn at once: bounds the memory


def persona(
    folder: str | Path,
    n_personas: int = 3,
    users_per_persona: int = 1000,
    answers: int = 200,
    seed: int = 0,
    statements: str = "own",
    personas: Sequence[str] | None = None,
) -> Comparisons:
    """Simulates people who each have one persona: "Yes" (left) to its statements, "No" to all others.

    Each person is asked `answers` statements drawn evenly from the pool: none twice while the pool lasts, and
    independently where `answers` is more than the pool. The pool holds what a persona would say and what it would not,
    half each, so with K personas a share of 1 / (2 K) of the answers is "Yes": look at balanced accuracy.
    Memory is 20 bytes an answer.

    Args:
        folder: with a file `interest-in-art.jsonl` and so on for each persona.
        n_personas: K*, the first so many of the paper's Table 5 (art, literature, math, music, science, sports).
        users_per_persona: people of each persona. For unseen people ask for more and hold them out:
            `split(unseen_users=...)`.
        answers: statements put to each person.
        seed: the same seed gives the same people.
        statements: the pool: "own", those of the personas that somebody has, or "all" of the paper's six.
        personas: names of the files without ending, in place of `n_personas`.

    Returns:
        One comparison an answer, person by person; ids are like "art-00017".

    Raises:
        InputError: a file is missing or damaged, or a number is out of range.
    """
    folder = folder_of(folder)
    names = _names(n_personas, personas)
    whole("users_per_persona", users_per_persona)
    whole("answers", answers)
    one_of("statements", statements, ("own", "all"))
    asked = names if statements == "own" else tuple(dict.fromkeys((*names, *_PERSONAS)))
    texts, says = _statements([folder / f"{name}.jsonl" for name in asked])

    random = np.random.default_rng(seed)
    n_users = len(names) * users_per_persona
    statement = np.empty((n_users, answers), np.int32)
    label = np.empty((n_users, answers), np.float32)
    for start in range(0, n_users, _BLOCK):
        block = slice(start, min(start + _BLOCK, n_users))
        statement[block] = _draw(random, block.stop - start, len(texts), answers)
        group = np.arange(block.start, block.stop) // users_per_persona
        label[block] = says[group[:, None], statement[block]]
    ids = [f"{_short(name)}-{row:05d}" for name in names for row in range(users_per_persona)]
    comparisons = votes_on(
        texts,
        pl.Series(ids),
        user=np.repeat(np.arange(n_users, dtype=np.int32), answers),
        statement=statement.reshape(-1),
        label=label.reshape(-1),
        responses=("Yes", "No"),
    )
    asked_at_all = np.zeros(len(texts), np.bool_)
    asked_at_all[statement] = True
    return comparisons if asked_at_all.all() else comparisons.compact()


def _names(n_personas: int, personas: Sequence[str] | None) -> tuple[str, ...]:
    if personas is None:
        if not 1 <= n_personas <= len(_PERSONAS):
            raise InputError(f"n_personas must be from 1 to {len(_PERSONAS)}, found {n_personas}; or name personas=")
        return _PERSONAS[:n_personas]
    if isinstance(personas, str) or not personas or len({_short(name) for name in personas}) < len(personas):
        raise InputError(f"personas must be different names of files, such as 'interest-in-art', found {personas!r}")
    return tuple(personas)


def _short(name: str) -> str:
    return name.removeprefix("interest-in-")


def _statements(paths: Sequence[Path]) -> tuple[pl.Series, npt.NDArray[np.bool_]]:
    """Distinct statements (P,) of all files, and which file's persona would say them (files, P)."""
    tables = []
    for number, path in enumerate(paths):
        frame = read_file(path, ("statement", _ANSWER))
        answer = frame[_ANSWER].cast(pl.String).str.strip_chars()
        for column, bad, remedy in (
            ("statement", frame["statement"].is_null() | (frame["statement"] == ""), "every row needs a statement"),
            (_ANSWER, ~answer.is_in(["Yes", "No"]), "it must be Yes or No"),
        ):
            if bad.fill_null(True).any():
                row = int(bad.fill_null(True).arg_true()[0])
                found = repr(frame[column][row])
                raise InputError(f"{path}, row {row + 1}, column '{column}': found {found}; {remedy}")
        tables.append(frame.select("statement", file=pl.lit(number), says=answer == "Yes"))
    every = pl.concat(tables)
    texts = every["statement"].unique(maintain_order=True)
    rows = every.join(texts.to_frame().with_row_index("row"), on="statement", how="left").filter("says")
    says = np.zeros((len(paths), len(texts)), np.bool_)
    says[rows["file"].to_numpy(), rows["row"].to_numpy()] = True
    return texts, says


def _draw(random: np.random.Generator, people: int, pool: int, answers: int) -> IntArray:
    """(people, answers) statements for each person, from 0 to `pool`."""
    if answers > pool:
        return random.integers(0, pool, (people, answers), dtype=np.int32)
    # the first steps of a Fisher-Yates shuffle, of all people's decks at once
    decks = np.repeat(np.arange(pool, dtype=np.int32)[:, None], people, axis=1)
    everyone = np.arange(people)
    for step in range(answers):
        other = random.integers(step, pool, people)
        drawn = decks[other, everyone]
        decks[other, everyone] = decks[step]
        decks[step] = drawn
    return decks[:answers].T
