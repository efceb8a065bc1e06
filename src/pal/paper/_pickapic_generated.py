"""Small Pick-a-Pic files in the Hub's schema, v1 and v2, and embeddings beside them, to try the whole path.

Pictures are stripes in a mixture of colours. Somebody asked for one colour; everybody likes to get it, and likes many
stripes; one half likes them upright, the other half lying. v2 holds v1's training rows and more, but tests on some of
them: the leakage.

Nothing here sees pictures and captions in one space, so two such spaces are generated. "clip-h14" knows how much of
the caption's colour is in a picture; in "pickscore" captions also like stripes. Both are made-up numbers, not those of
the models they are named after.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal.paper._pickapic import FOLDERS, VECTORS

__all__ = ["write"]

_COLOURS = {"red": (220, 40, 40), "green": (40, 190, 70), "blue": (50, 70, 220)}
_WORDS = ("quiet", "bright", "old", "small", "wide", "plain", "soft", "bold")
_THINGS = ("a curtain", "a flag", "a carpet", "a fence", "a shirt", "a lawn")
_USERS, _PICTURES, _SIDE, _DIM = 16, 4, 48, 12  # people; pictures of a caption; pixels; of the spaces
_CAPTIONS = {"train": 20, "validation": 8, "test": 10, "more": 10}  # "more": in v2's train alone
_LEAKED = 5  # captions in v1's train and v2's test

Array = npt.NDArray[Any]


def write(folder: Path, seed: int = 0) -> None:
    """Writes pickapic_v1, pickapic_v2 and the embeddings as subfolders, as `$PAL_DATA` would hold them.

    Args:
        folder: must exist.
        seed: of pictures, vectors and choices.
    """
    random = np.random.default_rng([seed, 0x91C4])
    captions = _captions(random)
    pools = np.split(np.arange(len(captions)), np.cumsum(list(_CAPTIONS.values()))[:-1])
    pool = dict(zip(_CAPTIONS, pools, strict=True))
    latent = _latent(random, captions)
    pictures = [_picture(random, row) for row in latent]
    uids = [random.bytes(16).hex() for _ in pictures]

    def rows(part: str, count: int) -> pl.DataFrame:
        return _rows(random, pool[part], count, captions, latent, uids, pictures)

    train, validation, test = rows("train", 700), rows("validation", 150), rows("test", 300)
    # as on the Hub, where what v2 tests on is not in its own training part
    moved = pl.col("caption").is_in([list(captions)[row] for row in pool["train"][:_LEAKED]])
    parts = {
        "v1": {"train": train, "validation": validation, "test": test},
        "v2": {
            "train": pl.concat([train.filter(~moved), rows("more", 400)]),
            "validation": validation,
            "test": pl.concat([test, train.filter(moved)]),
        },
    }
    for version, by_split in parts.items():
        for split, table in by_split.items():
            _publish(folder / FOLDERS[version] / "data", split, table)
            if split != "train":
                _publish(folder / FOLDERS[version] / "data", f"{split}_unique", table.unique("caption", keep="first"))
    for space, vectors in _spaces(random, captions, latent).items():
        target = folder / VECTORS / space
        target.mkdir(parents=True)
        for name, ids, matrix in (("captions", list(captions), vectors[0]), ("images", uids, vectors[1])):
            order = random.permutation(len(ids))
            table = pl.DataFrame({"id": [ids[row] for row in order], "embedding": matrix[order].astype(np.float32)})
            table.with_columns(pl.col("embedding").arr.to_list()).write_parquet(target / f"{name}.parquet")


def _captions(random: np.random.Generator) -> dict[str, int]:
    """Distinct captions and the colour each asks for."""
    every = [
        (f"{thing}, {word}, all {name}", colour)
        for thing in _THINGS
        for word in _WORDS
        for colour, name in enumerate(_COLOURS)
    ]
    drawn = random.permutation(len(every))[: sum(_CAPTIONS.values())]
    return {every[row][0]: every[row][1] for row in drawn}


def _latent(random: np.random.Generator, captions: dict[str, int]) -> Array:
    """(pictures, 5): share of each colour, how many stripes (0 to 1), and -1 (lying) or 1 (upright)."""
    asked = np.repeat(np.eye(3)[list(captions.values())], _PICTURES, axis=0)
    share = random.uniform(0, 1, (len(asked), 1))
    colours = share * asked + (1 - share) * random.dirichlet((1, 1, 1), len(asked))
    return np.column_stack([colours, random.uniform(0, 1, len(asked)), random.choice((-1, 1), len(asked))])


def _picture(random: np.random.Generator, latent: Array) -> bytes:
    """A JPEG file (_SIDE, _SIDE) of what a row of latents says."""
    from PIL import Image

    waves = np.sin(np.linspace(0, (2 + 10 * latent[3]) * np.pi, _SIDE) + random.uniform(0, 6))
    stripes = np.broadcast_to(waves, (_SIDE, _SIDE)) if latent[4] > 0 else np.broadcast_to(waves[:, None], (_SIDE,) * 2)
    pixels = (latent[:3] @ np.array(list(_COLOURS.values())))[None, None] + 45 * stripes[..., None]
    pixels = pixels + random.normal(0, 6, (_SIDE, _SIDE, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _rows(
    random: np.random.Generator,
    pool: Array,
    count: int,
    captions: dict[str, int],
    latent: Array,
    uids: list[str],
    pictures: list[bytes],
) -> pl.DataFrame:
    """Answers about captions of a pool, in the columns of the Hub; some are ties, one in twenty-five has no label."""
    caption = random.choice(pool, count)
    pair = np.array([random.permutation(_PICTURES)[:2] for _ in range(count)]) + _PICTURES * caption[:, None]
    user = random.integers(_USERS, size=count)
    asked = np.array(list(captions.values()))[np.arange(len(latent)) // _PICTURES]
    shared = 5 * latent[np.arange(len(latent)), asked] + 4 * latent[:, 3]
    value = shared[pair] + np.where(user % 2, 1, -1)[:, None] * latent[pair, 4]
    gap = value[:, 0] - value[:, 1] + random.logistic(0, 0.5, count)
    label = np.where(np.abs(gap) < 0.3, 0.5, gap > 0)
    labelled = random.random(count) > 0.04
    texts = list(captions)
    return pl.DataFrame(
        {
            "caption": [texts[row] for row in caption],
            "has_label": labelled,
            "image_0_uid": [uids[row] for row in pair[:, 0]],
            "image_1_uid": [uids[row] for row in pair[:, 1]],
            "jpg_0": pl.Series([pictures[row] for row in pair[:, 0]], dtype=pl.Binary),
            "jpg_1": pl.Series([pictures[row] for row in pair[:, 1]], dtype=pl.Binary),
            "label_0": np.where(labelled, label, 0.0),
            "label_1": np.where(labelled, 1 - label, 0.0),
            "ranking_id": random.permutation(count),
            "user_id": user.astype(np.int64),
        }
    )


def _publish(folder: Path, split: str, table: pl.DataFrame) -> None:
    """Writes a split as the Hub names it, train in two files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = 2 if split == "train" else 1
    size = -(-table.height // files)
    for number in range(files):
        path = folder / f"{split}-{number:05d}-of-{files:05d}-{_hash_of(split, number)}.parquet"
        table.slice(number * size, size).write_parquet(path)


def _hash_of(split: str, number: int) -> str:
    """Sixteen letters, as in names of files on the Hub."""
    return f"{number:x}{split.encode().hex():0<16}"[:16]


def _spaces(random: np.random.Generator, captions: dict[str, int], latent: Array) -> dict[str, tuple[Array, Array]]:
    """Space -> vectors of captions and of pictures, (captions, _DIM) and (pictures, _DIM)."""
    basis = np.linalg.qr(random.normal(size=(_DIM, _DIM)))[0]
    asked = np.eye(3)[list(captions.values())]
    pictures = latent * (1, 1, 1, 1, 0.5) @ basis[:5] + 3 * basis[5]  # all pictures have something in common
    found = {}
    for space, stripes, noise in (("clip-h14", 0.0, 0.08), ("pickscore", 0.6, 0.04)):
        texts = asked @ basis[:3] + stripes * basis[3] + random.normal(0, noise, (len(asked), _DIM))
        found[space] = (texts, pictures + random.normal(0, noise, (len(pictures), _DIM)))
    return found
