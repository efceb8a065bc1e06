"""Pictures to compare: crops of the photographs that `make photographs` brings, or generated ones without them.

The photographs are those of Debian's mate-backgrounds (nature); gnome-backgrounds adds rendered pictures (its version
43 has no photographs any more). Any folder of pictures in `$PAL_DATA/photographs` is taken instead. None of them, nor
a crop, is written anywhere: what is kept are embeddings.
"""

import io
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._vectors.encoders import open_image
from pal._vectors.store import EmbeddingStore, content_keys
from pal.embeddings import resolve_encoder
from pal.errors import InputError
from pal.paper._data import data_folder
from pal.paper._pick_a_filter import COLOURS, painted

__all__ = ["ENCODER", "Pictures", "folder_here", "picture_files", "pictures"]

ENCODER = "efficientnet-lite0"
GENERATED = 5  # pictures, where there are no photographs
SIDE = 128  # of a crop, pixels
CONTRAST = 12.0  # least standard deviation of a crop's grey values: nothing can be preferred about a flat one
TRIES = 200  # crops looked at before a picture is given up as flat
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".jxl", ".tif", ".tiff", ".bmp"}
_LEFT_OUT = {"abstract", "desktop"}  # mate-backgrounds: logos and stripes
_SEED = 14  # of crops: the same for every data set, so that they are embedded once


@dataclass(frozen=True, eq=False)
class Pictures:
    """Crops and their embeddings, as they are and in each colour.

    Attributes:
        source: "photographs" or "generated".
        captions: of the pictures that crops are cut from.
        family: (m,) row of `captions` of each crop.
        vectors: "" or a colour -> (m, 1280) float16.
    """

    source: str
    captions: tuple[str, ...]
    family: npt.NDArray[np.int64]
    vectors: dict[str, npt.NDArray[np.float16]]

    def __len__(self) -> int:
        return len(self.family)

    def table(self) -> tuple[list[str], npt.NDArray[np.float16]]:
        """(3 m,) ids, as `PickAFilter.names` gives them, and their vectors (3 m, 1280)."""
        ids = [f"{row}|{colour}" if colour else str(row) for colour in self.vectors for row in range(len(self))]
        return ids, np.concatenate(list(self.vectors.values()))


def folder_here() -> Path | None:
    """Where the photographs are: `$PAL_DATA/photographs`, else `.photographs` of the working folder; None if absent."""
    here = Path.cwd() / ".photographs"
    return data_folder("photographs") or (here if here.is_dir() else None)


def picture_files(folder: Path) -> list[Path]:
    """Files of pictures, in a fixed order, without logos and stripes."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file()]
    return sorted(path for path in found if path.parent.name not in _LEFT_OUT)


@cache
def pictures(source: str, crops: int, store: Path) -> Pictures:
    """Crops of all pictures, as many of each, embedded (once: the store keeps vectors, not pictures).

    Args:
        source: "photographs" or "generated".
        crops: in all; rounded down to as many of each picture.
        store: folder for the vectors.

    Raises:
        InputError: there are no photographs, or too few crops.
    """
    files = _files(source)
    each = crops // len(files)
    if each < 1:
        raise InputError(f"{crops} crops of {len(files)} pictures: at least one of each is needed")
    encoder = resolve_encoder(ENCODER)
    kept = EmbeddingStore(store, encoder, "float16")
    found: dict[str, list[npt.NDArray[Any]]] = {colour: [] for colour in ("", *COLOURS)}
    captions = []
    for number, file in enumerate(files):
        cut = _crops(file, each, number)
        if not cut:
            continue  # flat all over
        captions.append(_caption(file, number))
        for colour, vectors in found.items():
            contents = pl.Series([painted(one, colour) if colour else one for one in cut], dtype=pl.Binary)
            rows = kept.embed(encoder, content_keys(contents, "image"), contents, batch_size=16)
            vectors.append(kept.read(rows))
    if not captions:
        raise InputError("all pictures are flat: there is nothing to prefer")
    family = np.repeat(np.arange(len(captions)), each)
    stacked = {colour: np.concatenate(vectors) for colour, vectors in found.items()}
    return Pictures(source, tuple(captions), family, stacked)


def _files(source: str) -> list[Path | None]:
    """Files of pictures; None for one that is generated."""
    if source == "generated":
        return [None] * GENERATED
    folder = folder_here()
    files = [] if folder is None else picture_files(folder)
    if not files:
        raise InputError("there are no photographs: run 'make photographs', or put pictures in $PAL_DATA/photographs")
    return list(files)


def _caption(file: Path | None, number: int) -> str:
    """Words for a prompt: LadyBird.jpg is "lady bird"."""
    if file is None:
        return f"generated pattern {number}"
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", file.stem)).lower() or file.stem


def _crops(file: Path | None, count: int, number: int) -> list[bytes]:
    """PNG files (SIDE, SIDE), squares of a fifth to three fifths of a picture's shorter side; none if it is flat."""
    from PIL import Image

    random = np.random.default_rng([_SEED, number])
    image = _generated(random) if file is None else open_image(os.fspath(file))
    found: list[bytes] = []
    for tried in range(TRIES + 20 * count):
        if len(found) == count or (tried >= TRIES and not found):
            break
        side = random.uniform(0.2, 0.6) * min(image.size)
        left, top = (random.uniform(0, length - side) for length in image.size)
        box = (left, top, left + side, top + side)
        crop = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        if np.asarray(crop.convert("L"), np.float32).std() >= CONTRAST:
            out = io.BytesIO()
            crop.save(out, "PNG", compress_level=1)
            found.append(out.getvalue())
    return found if len(found) == count else []


def _generated(random: np.random.Generator) -> Any:
    """Smooth coloured noise (512, 512): something to look at where there are no photographs."""
    from PIL import Image

    total = np.zeros((512, 512, 3), np.float32)
    for cells, weight in zip((3, 12, 60), random.dirichlet((2, 2, 1)), strict=True):
        for channel in range(3):
            noise = Image.fromarray(random.normal(size=(cells, cells)).astype(np.float32))
            total[..., channel] += weight * np.asarray(noise.resize((512, 512), Image.Resampling.BICUBIC))
    total = 127 + random.uniform(-30, 30, 3) + total / total.std() * 45
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))
