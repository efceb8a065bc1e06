"""What workers do with a piece: score it, adapt its people, embed what is in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._distributed.pieces import Piece, bucket_of, write_part
from pal._distributed.reading import Reader, Reading, encoder_of
from pal._vectors.encoders import encode_checked
from pal._vectors.store import content_keys
from pal.adaptation import adapt
from pal.embeddings import EmbeddingStore, Encoder
from pal.errors import InputError
from pal.model import RewardModel

__all__ = ["Adapt", "Collect", "Deal", "Embed", "Ready", "Score", "bucket"]

_ROW_GROUP = 4096  # rows of a dealt table that are read or skipped together


class Score:
    """Margins and probabilities of a piece's rows."""

    def __init__(self, model: str, reading: Reading) -> None:
        self._model, self._reader = RewardModel.from_pretrained(model), Reader(reading)

    def __call__(self, piece: Piece, out: Path) -> None:
        """Writes the rows with the columns margin and probability."""
        data = self._reader(piece.read())
        margin, probability = self._model.scores(data)
        frame = data.comparisons.to_frame()
        scored = {"margin": pl.Series(margin.numpy()), "probability": pl.Series(probability.numpy())}
        write_part(frame.with_columns(**scored), out, piece.number)


class Deal:
    """A piece's rows, by the bucket of their user: all of a user's rows have the same."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets

    def __call__(self, piece: Piece, out: Path) -> None:
        """Writes the rows sorted by bucket, so that readers of one bucket skip the others."""
        frame = piece.read()
        if "user_id" not in frame.columns:
            Reading().comparisons(frame)  # says what is wrong
        dealt = frame.with_columns(bucket=pl.Series(bucket_of(frame["user_id"], self._buckets)))
        write_part(dealt.sort("bucket", maintain_order=True), out, piece.number, _ROW_GROUP)


def bucket(folder: Path, number: int) -> pl.DataFrame:
    """The rows of a bucket, from all dealt parts, in their order."""
    scan = pl.scan_parquet(sorted(folder.glob("part-*.parquet")), glob=False)
    return scan.filter(pl.col("bucket") == number).drop("bucket").collect()


class Adapt:
    """Weights of the users of a bucket."""

    def __init__(self, model: str, reading: Reading, dealt: str, strength: float | None) -> None:
        self._model, self._reader = RewardModel.from_pretrained(model), Reader(reading)
        self._dealt, self._strength = Path(dealt), strength

    def __call__(self, piece: Piece, out: Path) -> None:
        """Writes user_id, n_comparisons, weights, concentration and gap, a row a user."""
        frame = bucket(self._dealt, piece.number)
        if not len(frame):  # no user fell into it
            write_part(pl.DataFrame(), out, piece.number)
            return
        users = adapt(self._model, self._reader(frame), strength=self._strength)
        columns = [pl.Series("concentration", users.concentration.numpy()), pl.Series("gap", users.gap)]
        write_part(users.to_frame().with_columns(columns), out, piece.number)


class Collect:
    """The distinct contents of a piece, by the bucket of their key."""

    def __init__(self, reading: Reading, kind: str, buckets: int) -> None:
        self._reading, self._kind, self._buckets = reading, kind, buckets

    def __call__(self, piece: Piece, out: Path) -> None:
        """Writes id (sha256), content and bucket of each."""
        found = self._contents(piece.read())
        place = found["id"].str.slice(0, 8).str.to_integer(base=16) % self._buckets
        write_part(found.with_columns(bucket=place).sort("bucket", maintain_order=True), out, piece.number, _ROW_GROUP)

    def _contents(self, frame: pl.DataFrame) -> pl.DataFrame:
        table = self._reading.comparisons(frame)
        if self._reading.prompt_mode == "joint":
            table = table.joined()
        tables = {"responses": table.responses}
        if self._reading.prompt_mode == "separate" and table.prompts is not None:
            tables["prompts"] = table.prompts
        for what, items in tables.items():
            if items.contents is None:
                raise InputError(f"these {what} are ids without texts: pass their vectors as embeddings")
            if items.kind != self._kind:
                remedy = "embed them in one process, or leave prompts out (prompt_mode='none')"
                raise InputError(f"the encoder is for {self._kind}s, but the {what} are {items.kind}s: {remedy}")
        contents = pl.concat(
            [items.contents.alias("content") for items in tables.values() if items.contents is not None]
        )
        found = pl.DataFrame({"id": content_keys(contents, self._kind), "content": contents})
        return found.unique("id", keep="first", maintain_order=True)


class Embed:
    """Vectors of the contents of a bucket that no store holds yet."""

    def __init__(self, encoder: str | Encoder, store: str, collected: str, batch_size: int, dtype: str) -> None:
        self._encoder, self._store = encoder_of(encoder), Path(store)
        self._collected, self._batch_size, self._dtype = Path(collected), batch_size, dtype

    def __call__(self, piece: Piece, out: Path) -> None:
        """Writes id and embedding of each."""
        found = bucket(self._collected, piece.number).unique("id", keep="first", maintain_order=True)
        if (self._store / "manifest.json").is_file():
            found = found.filter(EmbeddingStore(self._store).rows(found["id"]) < 0)
        if self._encoder.kind == "text":  # texts of like length share a batch: less padding
            found = found.sort(pl.col("content").str.len_bytes(), descending=True, maintain_order=True)
        if not len(found):
            write_part(pl.DataFrame(schema={"id": pl.String}), out, piece.number)
            return
        vectors = encode_checked(self._encoder, found["content"].to_list(), self._batch_size, self._dtype)
        write_part(pl.DataFrame({"id": found["id"], "embedding": vectors}), out, piece.number)


class Ready:
    """An encoder that gives vectors that are there already, so that a store takes them in as from any other."""

    def __init__(self, encoder: Encoder, vectors: npt.NDArray[Any], contents: Sequence[Any]) -> None:
        self.name, self.revision, self.kind, self.dim = encoder.name, encoder.revision, encoder.kind, vectors.shape[1]
        self._row, self._vectors = {content: row for row, content in enumerate(contents)}, vectors

    def encode(self, contents: Sequence[Any], batch_size: int = 64) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """The vectors of these contents."""
        return np.asarray(self._vectors[[self._row[content] for content in contents]], np.float32)
