"""How rows of a table become embedded comparisons, the same in every worker."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pal._distributed.vectors import DiskVectors
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons, Encoder, default_store, embed, resolve_encoder
from pal.errors import InputError
from pal.model import RewardModel

__all__ = ["Reader", "Reading", "as_parquet"]


@dataclass(frozen=True)
class Reading:
    """Where vectors come from: an embedding store that holds them all, or own vectors on disk.

    Attributes:
        encoder: a name or an encoder; None for own vectors.
        store: folder of the embedding store.
        vectors: folder of own vectors, as `write_vectors` writes it.
        prompt_vectors: folder of the prompts' own vectors, where they are not in `vectors`.
        prompt_mode: as in `pal.embed`.
        images: responses are paths of images.
        folder: where relative paths of images start.
    """

    encoder: str | Encoder | None = None
    store: str | None = None
    vectors: str | None = None
    prompt_vectors: str | None = None
    prompt_mode: str = "separate"
    images: bool = False
    folder: str = ""

    def comparisons(self, frame: pl.DataFrame) -> Comparisons:
        """The rows, checked."""
        if self.images:
            names = [n for n in ("left", "right", "chosen", "rejected") if frame.schema.get(n) == pl.String]
            frame = frame.with_columns(pl.col(n).map_elements(self._path, pl.String) for n in names)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # that somebody's answers are all ties: of a piece it says nothing
            return Comparisons.from_frame(frame, images=self.images)

    def _path(self, path: str) -> str:
        return path if os.path.isabs(path) or "://" in path else os.path.join(self.folder, path)

    @staticmethod
    def mode_of(model: RewardModel) -> str:
        """The prompt mode that a model takes."""
        return "separate" if model.config.prompt in ("separate", "concatenate") else model.config.prompt


class Reader:
    """Opens what a `Reading` names, once in each worker."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._own, self._prompts = (
            None if folder is None else DiskVectors(Path(folder))
            for folder in (reading.vectors, reading.prompt_vectors)
        )
        self._encoder: Encoder | None = None

    def __call__(self, frame: pl.DataFrame) -> EmbeddedComparisons:
        """The rows with their vectors."""
        reading = self.reading
        table = reading.comparisons(frame)
        if self._own is not None:
            names = [items.ids.cast(pl.String).alias("id") for items in (table.responses, table.prompts) if items]
            if self._prompts is None or table.prompts is None:
                return embed(table, embeddings=self._own.of(pl.concat(names)), prompt_mode=reading.prompt_mode)
            prompts = self._prompts.of(names[1])
            return embed(table, embeddings=self._own.of(names[0]), prompt_embeddings=prompts)
        if self._encoder is None:
            self._encoder = encoder_of(reading.encoder)
        return embed(table, self._encoder, store=reading.store, prompt_mode=reading.prompt_mode)


def encoder_of(encoder: Any) -> Encoder:
    """The encoder of a name, or the one given.

    Raises:
        InputError: there is neither.
    """
    if encoder is None:
        raise InputError("the model was trained on own vectors: pass theirs with --embeddings (embeddings=)")
    return resolve_encoder(encoder)


def store_of(encoder: Encoder, store: Any) -> Path:
    """The store that was named, or the default one of the encoder."""
    return default_store(encoder) if store is None else Path(store)


def as_parquet(table: str | Path, folder: Path, images: bool = False) -> Path:
    """The table itself where it is parquet (a file, or a folder of them); jsonl and csv are written as parquet."""
    path = Path(table)
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return path
    made = folder / "table.parquet"
    if not made.is_file():
        Comparisons.read(path, images=images).write(made)
    return made
