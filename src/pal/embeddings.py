"""Comparisons with the vectors of what was compared, and where the vectors come from.

Vectors come from a frozen encoder (a name, a folder, or any object that is an `Encoder`) or from outside
(`embeddings=`). Each distinct content is encoded once; with a store on disk, once ever. Rows of vectors
follow the item tables of the comparisons, so that responses and prompts are matched by id here and never
again.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._checks import one_of, whole
from pal._progress import counted
from pal._vectors.encoders import (
    EfficientNetEncoder,
    Encoder,
    ImageEncoder,
    TextEncoder,
    cast_checked,
    encode_checked,
)
from pal._vectors.hashing import HashingEncoder
from pal._vectors.names import cache_folder, resolve_encoder
from pal._vectors.own import OwnVectors, VectorTable
from pal._vectors.store import EmbeddingStore, content_keys
from pal.comparisons import Comparisons, Items, Parts, Rows, split_rows
from pal.errors import InputError

__all__ = [
    "EfficientNetEncoder",
    "EmbeddedComparisons",
    "EmbeddingStore",
    "Encoder",
    "HashingEncoder",
    "ImageEncoder",
    "TextEncoder",
    "check_embedded",
    "default_store",
    "embed",
    "encode",
    "resolve_encoder",
]

PROMPT_MODES = ("separate", "joint", "none")
_PIECE = 8192  # contents given to an encoder together


@dataclass(frozen=True, eq=False)
class EmbeddedComparisons:
    """Comparisons and the vectors of their items.

    Attributes:
        comparisons: n rows over R responses and P prompts.
        responses: (R, D) float32 or float16, row by row those of `comparisons.responses`.
        prompts: (P, Dp), row by row those of `comparisons.prompts`; None without prompts, or where
            `prompt_mode` is not "separate".
        encoder: the name of the responses' encoder; None for own vectors.
        prompt_mode: "separate" (a vector a prompt), "joint" (each response was encoded with its prompt before
            it) or "none" (the model does not see prompts; splits still do).
        revision: of the encoder.
        prompt_encoder: the name of the prompts' encoder.
        prompt_revision: of the prompts' encoder.
    """

    comparisons: Comparisons
    responses: npt.NDArray[Any]
    prompts: npt.NDArray[Any] | None
    encoder: str | None = None
    prompt_mode: str = "separate"
    revision: str | None = None
    prompt_encoder: str | None = None
    prompt_revision: str | None = None

    def __post_init__(self) -> None:
        one_of("prompt_mode", self.prompt_mode, PROMPT_MODES)
        items = {"responses": self.comparisons.responses, "prompts": self.comparisons.prompts}
        for name, array in (("responses", self.responses), ("prompts", self.prompts)):
            table = items[name]
            if array is None:
                if name == "prompts" and table is not None and self.prompt_mode == "separate":
                    raise InputError("the comparisons have prompts but no vectors of them: say prompt_mode='none'")
                continue
            if table is None or (self.prompt_mode != "separate" and name == "prompts"):
                raise InputError(f"vectors of prompts are given, but prompt_mode='{self.prompt_mode}' uses none")
            if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32):
                found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"vectors of {name} must be a numpy array of float32 or float16, found {found}")
            if array.ndim != 2 or len(array) != len(table):
                raise InputError(f"vectors of {name} must be ({len(table)}, D), one row an item, found {array.shape}")

    def __len__(self) -> int:
        return len(self.comparisons)

    def __repr__(self) -> str:
        prompts = "" if self.prompts is None else f", prompts {self.prompts.shape}"
        source = self.encoder or "own vectors"
        return f"EmbeddedComparisons({self.comparisons!r}, responses {self.responses.shape}{prompts}, {source})"

    def take(self, rows: Rows) -> "EmbeddedComparisons":
        """The comparisons at these rows (m,) or of a mask (n,); tables and vectors are shared, not copied."""
        return replace(self, comparisons=self.comparisons.take(rows))

    def fingerprint(self) -> str:
        """A name for these rows and labels, and for the vectors as far as their sums tell (hex)."""
        found, table = hashlib.sha256(), self.comparisons
        for array in (table.user, table.left, table.right, table.prompt, table.label, table.weight):
            found.update(b"-" if array is None else np.ascontiguousarray(array).data)
        for vectors in (self.responses, self.prompts):
            told = None if vectors is None else (vectors.shape, float(vectors.sum(dtype=np.float64)))
            found.update(repr(told).encode())
        return found.hexdigest()[:16]

    def split(
        self,
        unseen_users: float = 0.2,
        test: float = 0.1,
        validation: float = 0.1,
        by: str = "comparison",
        seed: int = 0,
    ) -> "Parts[EmbeddedComparisons]":
        """Cuts into train, validation, test, unseen (and left_out); arguments as of `Comparisons.split`."""
        rows = split_rows(self.comparisons, unseen_users, test, validation, by, seed)
        return Parts(**{name: self.take(index) for name, index in rows.items()})


def check_embedded(data: Any) -> None:
    """Refuses comparisons that have no vectors yet."""
    if not isinstance(data, EmbeddedComparisons):
        remedy = "call pal.embed first" if isinstance(data, Comparisons) else "read a table, then call pal.embed first"
        raise InputError(f"embedded comparisons are needed, found {type(data).__name__}: {remedy}")


def embed(
    comparisons: Comparisons,
    encoder: str | os.PathLike[str] | Encoder = "all-MiniLM-L6-v2",
    *,
    embeddings: OwnVectors | None = None,
    prompt_encoder: str | os.PathLike[str] | Encoder | None = None,
    prompt_embeddings: OwnVectors | None = None,
    store: str | os.PathLike[str] | bool | None = None,
    prompt_mode: str = "separate",
    dtype: str = "float32",
    batch_size: int = 64,
    device: str | None = None,
    progress: bool = False,
) -> EmbeddedComparisons:
    """Gives the items of comparisons their vectors.

    Args:
        comparisons: with texts, images, or ids alone (then `embeddings` is needed).
        encoder: a name ("hashing", "all-MiniLM-L6-v2", a folder, a Hub id) or an `Encoder`; see
            `resolve_encoder`. Not used where `embeddings` is given.
        embeddings: own vectors, for responses and (unless given apart) prompts: (ids (n,), matrix (n, D)), or
            a parquet file or polars frame with columns `id` and `embedding`. The id of a text is the text.
        prompt_encoder: another encoder for the prompts. Without it, texts beside images take the text
            tower of the image encoder, where it has one.
        prompt_embeddings: own vectors of prompts, where they are not in `embeddings` or of another length.
        store: folder where vectors are kept and found again; True for `default_store`; None keeps nothing.
            Prompts of another encoder than the responses' are kept in its subfolder `prompts`.
        prompt_mode: "separate", "joint" (prompt and response as one text) or "none" (prompts are left out).
        dtype: "float32", or "float16" (half the memory and disk; numbers keep three digits).
        batch_size: items encoded at once.
        device: "cpu", "cuda", "mps", or None: the best there is. For encoders given by name.
        progress: a progress bar on stderr, where that is a terminal.

    Raises:
        InputError: arguments that do not fit together, own vectors that cannot be used, a store of another
            encoder.
        EncoderError: an encoder that cannot be found or fails, an image that cannot be read.
        MissingExtraError: the encoder's library is not installed.
    """
    if not isinstance(comparisons, Comparisons):
        raise InputError(
            f"comparisons must be pal.Comparisons, found {comparisons!r:.60}: read them by pal.Comparisons.read"
        )
    one_of("prompt_mode", prompt_mode, PROMPT_MODES)
    one_of("dtype", dtype, ("float32", "float16"))
    whole("batch_size", batch_size)
    if prompt_mode == "joint":
        comparisons = comparisons.joined()
    prompts = comparisons.prompts if prompt_mode == "separate" else None

    source = VectorTable(embeddings) if embeddings is not None else resolve_encoder(encoder, device=device)
    prompt_source: VectorTable | Encoder | None = None
    if prompts is None:
        pass
    elif prompt_embeddings is not None:
        prompt_source = VectorTable(prompt_embeddings)
    elif prompt_encoder is not None:
        prompt_source = _same(resolve_encoder(prompt_encoder, device=device), source)
    else:
        prompt_source = _text_tower(source, prompts)

    named = None if isinstance(source, VectorTable) else source
    prompt_named = None if isinstance(prompt_source, VectorTable) else prompt_source

    def vectors(used: VectorTable | Encoder, **tables: Items) -> list[npt.NDArray[Any]]:
        if isinstance(used, VectorTable):
            return [used.rows_of(items, what, np.dtype(dtype)) for what, items in tables.items()]
        for what, items in tables.items():
            _check_kind(what, items, used)
        folder = default_store(used, dtype) if store is True else Path(store) if store else None
        if folder is not None and store is not True and used is not named and named is not None:
            folder = folder / "prompts"
        return _encode(used, tables, folder, dtype, batch_size, progress)

    if prompts is None or prompt_source is None:
        arrays = vectors(source, responses=comparisons.responses)
    elif prompt_source is source:
        arrays = vectors(source, responses=comparisons.responses, prompts=prompts)
    else:
        arrays = vectors(source, responses=comparisons.responses) + vectors(prompt_source, prompts=prompts)
    return EmbeddedComparisons(
        comparisons=comparisons,
        responses=arrays[0],
        prompts=arrays[1] if len(arrays) == 2 else None,
        encoder=None if named is None else named.name,
        prompt_mode=prompt_mode,
        revision=None if named is None else named.revision,
        prompt_encoder=None if prompt_named is None else prompt_named.name,
        prompt_revision=None if prompt_named is None else prompt_named.revision,
    )


def encode(encoder: Encoder, contents: Sequence[Any], store: bool = False) -> npt.NDArray[np.float32]:
    """Vectors (n, D) of texts or images, found in the encoder's `default_store` or kept there where ``store`` is set.

    An encoder whose vectors are all in the store does not load its model.
    """
    if not store:
        return np.asarray(encoder.encode(contents), dtype=np.float32)
    values = pl.Series(list(contents))
    items = Items(pl.Series([str(row) for row in range(len(values))]), values, encoder.kind)
    return _encode(encoder, {"contents": items}, default_store(encoder), "float32", 64, False)[0]


def default_store(encoder: Encoder, dtype: str = "float32") -> Path:
    """The folder in the user's cache for an encoder in its revision ($PAL_CACHE moves the cache)."""
    key = hashlib.sha256(f"{encoder.name}\n{encoder.revision}".encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9]+", "-", encoder.name)[-60:].strip("-")
    return cache_folder() / "embeddings" / f"{name}-{key}-{dtype}"


def _encode(
    encoder: Encoder,
    tables: dict[str, Items],
    folder: Path | None,
    dtype: str,
    batch_size: int,
    progress: bool,
) -> list[npt.NDArray[Any]]:
    """Vectors of each table, (n, D); every distinct content of all of them is encoded once."""
    contents = pl.concat([items.contents for items in tables.values() if items.contents is not None])
    keys = content_keys(contents, encoder.kind)
    distinct = pl.DataFrame({"id": keys, "content": contents}).unique("id", keep="first", maintain_order=True)
    if encoder.kind == "text":
        # texts of like length share a batch: less padding, wherever a commit to the store cuts
        distinct = distinct.sort(pl.col("content").str.len_bytes(), descending=True, maintain_order=True)
    with counted(f"Embedding {' and '.join(tables)}", len(distinct), progress) as advance:
        if folder is not None:
            store = EmbeddingStore(folder, encoder, dtype)
            store.embed(encoder, distinct["id"], distinct["content"], batch_size, advance)
            vectors = cast_checked(store.read(store.rows(keys)), dtype, encoder)
        else:
            vectors = np.empty((len(distinct), encoder.dim), dtype)
            size = batch_size * max(1, _PIECE // batch_size)
            for start in range(0, len(distinct), size):
                piece = distinct["content"].slice(start, size).to_list()
                vectors[start : start + size] = encode_checked(encoder, piece, batch_size, dtype)
                advance(len(piece))
            place = keys.to_frame().join(distinct.with_row_index("row"), on="id", how="left", maintain_order="left")
            vectors = vectors[place["row"].to_numpy()]
    ends = np.cumsum([len(items) for items in tables.values()])
    return [vectors[end - len(items) : end] for end, items in zip(ends, tables.values(), strict=True)]


def _check_kind(what: str, items: Items, encoder: Encoder) -> None:
    if items.contents is None:
        remedy = "embeddings=(ids, matrix)" if what == "responses" else "prompt_embeddings=(ids, matrix)"
        raise InputError(f"these {what} are ids without texts: pass {remedy}")
    if items.kind != encoder.kind:
        remedy = {
            ("responses", "image"): "name one for images, such as 'efficientnet-lite0' or a CLIP model",
            ("responses", "text"): "name one for texts, such as 'all-MiniLM-L6-v2'",
            ("prompts", "text"): "name one for texts as prompt_encoder=, or pass prompt_mode='none'",
        }.get((what, items.kind), "pass prompt_mode='none'")
        raise InputError(f"encoder {encoder.name!r} is for {encoder.kind}s, but the {what} are {items.kind}s: {remedy}")


def _same(encoder: Encoder, source: VectorTable | Encoder) -> Encoder:
    """The encoder of the responses, where the prompts' is the same one: its model is loaded once."""
    if isinstance(source, VectorTable) or (source.name, source.revision) != (encoder.name, encoder.revision):
        return encoder
    return source


def _text_tower(source: VectorTable | Encoder, prompts: Items) -> VectorTable | Encoder:
    """What embeds prompts unless it is said: the same, or for texts beside images the text side of it."""
    if isinstance(source, ImageEncoder) and prompts.kind == "text":
        return source.text_tower or source
    return source
