"""EmbeddingStore: vectors of unique contents on disk, each embedded once, ever.

A folder holds

- `vectors.npy`: (rows, D) float16 or float32; `np.load(..., mmap_mode="r")` reads it;
- `ids.parquet`: column `id` (sha256 of the content, hexadecimal) and `checksum` (of the vector), row by row;
- `manifest.json`: the encoder, its revision and kind, dimension, dtype, and whether all rows have length 1;
- `lock`: held by the process that is embedding.

Vectors are written and flushed to the disk first; then `ids.parquet` is replaced in one step, and that is
the commit. After a kill, rows of `vectors.npy` beyond the last id are a torn tail: ignored, and
overwritten by the next writer. A writer holds the lock while it embeds one chunk (some seconds of work),
and looks again at what is there once it has it: two processes take turns and never embed the same content
twice.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._vectors.encoders import Encoder, encode_checked
from pal.errors import EncoderError, InputError

_FORMAT = 1
_HEADER = 128
_PIECE = 65_536  # rows read and verified together
_IDS = {"id": pl.String(), "checksum": pl.UInt64()}


class EmbeddingStore:
    """A folder of vectors of one encoder in one revision.

    Args:
        folder: opened where it is a store, made where it is empty or missing.
        encoder: the encoder it must be of. None: an existing store, for reading.
        dtype: "float32" or "float16" for a new store (None: float32). Of a store that is there, "float32"
            asks for no less, and "float16" or None takes what it has.

    Raises:
        InputError: a store of another encoder, revision, dimension or dtype; a damaged store; a folder of
            other files.
    """

    commit_seconds = 5.0  # of encoding between two commits: what a kill may cost

    def __init__(
        self, folder: str | os.PathLike[str], encoder: Encoder | None = None, dtype: str | None = None
    ) -> None:
        if dtype not in (None, "float16", "float32"):
            raise InputError(f"dtype must be 'float16' or 'float32', found {dtype!r}")
        self.folder = Path(folder)
        self._ids = pl.DataFrame(schema=_IDS)
        self._seen: tuple[int, int, int] | None = None
        if encoder is None:
            if not (self.folder / "manifest.json").is_file():
                raise InputError(f"{self.folder} is no embedding store: manifest.json is missing")
        elif not (self.folder / "ids.parquet").is_file():
            self._create(encoder, dtype or "float32")
        self.manifest = self._read_manifest()
        self.dimension: int = self.manifest["dimension"]
        self.dtype: np.dtype[Any] = np.dtype(self.manifest["dtype"])
        if encoder is not None:
            self._check_encoder(encoder)
        if dtype == "float32" and self.dtype == np.float16:
            raise self._unlike("dtype float16", "float32", "pass dtype='float16'")
        self._refresh()

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        encoder, kind = self.manifest["encoder"], self.manifest["dtype"]
        return f"EmbeddingStore({os.fspath(self.folder)!r}, {encoder!r}, {len(self)} x {self.dimension} {kind})"

    @property
    def ids(self) -> pl.Series:
        """The sha256 of each content, (rows,) strings."""
        return self._ids["id"]

    def rows(self, keys: pl.Series) -> npt.NDArray[np.int64]:
        """Rows of contents, (n,), -1 where they are not here.

        Args:
            keys: (n,) sha256 of contents, as `content_keys` gives them.
        """
        table = self._ids.select("id").with_row_index("row")
        found = keys.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")["row"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    def read(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """Vectors at rows, (n, D) of the store's dtype, each verified against its checksum.

        Raises:
            InputError: a row that is not here, or vectors changed since they were written.
        """
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.dimension), self.dtype)
        if not len(rows):
            return out
        if rows.min() < 0 or rows.max() >= len(self):
            raise InputError(f"{self.folder} has rows 0 to {len(self) - 1}, asked for {rows.min()} to {rows.max()}")
        vectors = np.memmap(
            self.folder / "vectors.npy",
            self.dtype.newbyteorder("<"),
            "r",
            _HEADER,
            (len(self), self.dimension),
        )
        expected = self._ids["checksum"].to_numpy()
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            found = out[start : start + len(piece)]
            np.take(vectors, piece, axis=0, out=found, mode="clip")  # "raise" would copy once more
            wrong = self._checksums(found) != expected[piece]
            if wrong.any():
                raise self._damaged(f"vectors.npy was changed in row {piece[np.argmax(wrong)]}")
        return out

    def embed(
        self,
        encoder: Encoder,
        keys: pl.Series,
        contents: pl.Series,
        batch_size: int = 64,
        advance: Callable[[int], object] = lambda _: None,
    ) -> npt.NDArray[np.int64]:
        """Rows of contents, (n,), after embedding those that are not here yet.

        Args:
            encoder: the one the store was opened with.
            keys: (n,) sha256 of the contents, unique.
            contents: (n,) strings or bytes, in the order to encode them.
            batch_size: contents encoded at once.
            advance: told how many contents more are done, after each commit.

        Raises:
            EncoderError: the encoder fails, or gives NaN; what was embedded before stays.
        """
        size, advanced = max(batch_size, 256), 0
        missing = self._missing(keys)
        while True:
            advance(len(keys) - len(missing) - advanced)
            advanced = len(keys) - len(missing)
            if not len(missing):
                return self.rows(keys)
            with self._lock:
                if self._refresh():  # another process may have done some of it
                    missing = missing[self.rows(keys.gather(missing)) < 0]
                chunk, missing = missing[:size], missing[size:]
                if not len(chunk):
                    continue
                started = time.perf_counter()
                vectors = encode_checked(encoder, contents.gather(chunk).to_list(), batch_size, self.dtype)
                encoded = time.perf_counter()
                self._append(keys.gather(chunk), vectors)
                committed = time.perf_counter()
            # commits rewrite the ids: a large store commits more rarely, so that they stay below a twentieth
            target = max(self.commit_seconds, 20 * (committed - encoded))
            speed = target / max(encoded - started, 1e-6)
            size = max(batch_size, int(size * min(max(speed, 0.25), 4.0)) // batch_size * batch_size)

    def _missing(self, keys: pl.Series) -> npt.NDArray[np.int64]:
        self._refresh()
        return np.flatnonzero(self.rows(keys) < 0)

    @cached_property
    def _lock(self) -> Any:
        from filelock import FileLock

        return FileLock(self.folder / "lock")

    def _create(self, encoder: Encoder, dtype: str) -> None:
        """Makes the files of an empty store, or finishes what a killed process began; ids.parquet is last."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"embedding store {self.folder} cannot be made: {error.strerror}") from error
        manifest = {
            "format": _FORMAT,
            "encoder": encoder.name,
            "revision": encoder.revision,
            "kind": encoder.kind,
            "dimension": int(encoder.dim),
            "dtype": dtype,
            "normalised": None,
        }
        with self._lock:
            if (self.folder / "ids.parquet").is_file():
                return
            if not (self.folder / "manifest.json").is_file():
                others = [path.name for path in self.folder.iterdir() if path.name not in ("lock", "manifest.json.new")]
                if others:
                    raise InputError(
                        f"{self.folder} is no embedding store but holds other files ({others[0]}): "
                        "give an empty or a new folder"
                    )
                self._write("manifest.json", json.dumps(manifest, indent=2).encode())
            vectors = self.folder / "vectors.npy"
            if vectors.is_file() and vectors.stat().st_size > _HEADER:
                raise self._damaged("ids.parquet is missing")
            found = self._read_manifest()
            self._write("vectors.npy", _npy_header(0, found["dimension"], np.dtype(found["dtype"])))
            self._commit(self._ids)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.folder / "manifest.json").read_bytes())
            good = (
                isinstance(manifest["encoder"], str)
                and isinstance(manifest["revision"], str)
                and isinstance(manifest["dimension"], int)
                and manifest["dimension"] > 0
                and manifest["dtype"] in ("float16", "float32")
                and isinstance(manifest["format"], int)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged("manifest.json is missing or cannot be read") from error
        if not good:
            raise self._damaged("manifest.json does not describe a store")
        if manifest["format"] != _FORMAT:
            raise InputError(
                f"embedding store {self.folder} has format {manifest['format']}, this version of PAL reads "
                f"{_FORMAT}: update PAL, or use another folder"
            )
        return dict(manifest)

    def _check_encoder(self, encoder: Encoder) -> None:
        found = self.manifest
        # a hash of the model's own files says who made the vectors, wherever the files lie now
        same_files = encoder.revision.startswith("sha256:") and encoder.revision == found["revision"]
        if not same_files and encoder.name != found["encoder"]:
            raise self._unlike(f"encoder {found['encoder']!r}", repr(encoder.name), "name that encoder")
        if encoder.revision != found["revision"]:
            raise self._unlike(
                f"revision {found['revision']} of encoder {found['encoder']!r}",
                encoder.revision,
                "bring that revision",
            )
        # an encoder that has not loaded its model yet keeps quiet about it; its revision already matches
        lazy = isinstance(getattr(type(encoder), "dim", None), cached_property) and "dim" not in vars(encoder)
        if not lazy and encoder.dim != found["dimension"]:
            raise self._unlike(
                f"dimension {found['dimension']}", str(encoder.dim), "bring the encoder of that dimension"
            )

    def _refresh(self) -> bool:
        """Reads the ids again where another process has replaced them; says whether it did."""
        path = self.folder / "ids.parquet"
        try:
            stat = path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return False
            ids = pl.read_parquet(path, glob=False, memory_map=False)
            size = (self.folder / "vectors.npy").stat().st_size
            with (self.folder / "vectors.npy").open("rb") as file:
                header = file.read(_HEADER)
        except FileNotFoundError as error:
            raise self._damaged(f"{Path(error.filename or path).name} is missing") from error
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._damaged("ids.parquet cannot be read") from error
        if dict(ids.schema) != _IDS:
            raise self._damaged(f"ids.parquet has columns {', '.join(ids.columns)}, not {', '.join(_IDS)}")
        if header[:8] != b"\x93NUMPY\x01\x00" or f"'{self.dtype.newbyteorder('<').str}'".encode() not in header:
            raise self._damaged(f"vectors.npy is no array of {self.dtype}")
        needed = _HEADER + len(ids) * self.dimension * self.dtype.itemsize
        if size < needed:
            raise self._damaged(f"vectors.npy has {size} bytes, {len(ids)} ids need {needed}: it was cut")
        self._ids, self._seen = ids, seen
        return True

    def _append(self, keys: pl.Series, vectors: npt.NDArray[Any]) -> None:
        """Writes vectors, then commits their keys. Only under the lock, after `_refresh`."""
        if vectors.shape[1] != self.dimension:
            raise self._unlike(f"dimension {self.dimension}", str(vectors.shape[1]), "use one folder an encoder")
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
        unit = bool((np.abs(lengths - 1) < 2e-3).all())  # what float16 leaves of 1
        self.manifest = self._read_manifest()  # another process may have changed it
        normalised = unit and self.manifest["normalised"] is not False
        if normalised != self.manifest["normalised"]:
            self.manifest = {**self.manifest, "normalised": normalised}
            self._write("manifest.json", json.dumps(self.manifest, indent=2).encode())
        before = len(self._ids)
        with (self.folder / "vectors.npy").open("r+b") as file:
            file.seek(_HEADER + before * self.dimension * self.dtype.itemsize)
            file.write(np.ascontiguousarray(vectors, self.dtype.newbyteorder("<")).data)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            file.write(_npy_header(before + len(vectors), self.dimension, self.dtype))
            file.flush()
            os.fsync(file.fileno())
        new = pl.DataFrame({"id": keys, "checksum": self._checksums(vectors)}, schema=_IDS)
        self._commit(pl.concat([self._ids, new], rechunk=True))

    def _commit(self, ids: pl.DataFrame) -> None:
        fresh = self.folder / "ids.parquet.new"
        ids.write_parquet(fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(fresh, self.folder / "ids.parquet")
        self._sync_folder()
        stat = (self.folder / "ids.parquet").stat()
        self._ids, self._seen = ids, (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def _write(self, name: str, data: bytes) -> None:
        fresh = self.folder / f"{name}.new"
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.folder / name)
        self._sync_folder()

    def _sync_folder(self) -> None:
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _checksums(self, vectors: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """(n,) sums of each number's bits times the odd weight of its place: one change always shows."""
        width = np.dtype(np.uint16 if self.dtype == np.float16 else np.uint32)
        bits: npt.NDArray[Any] = np.ascontiguousarray(vectors, self.dtype.newbyteorder("<")).view(width)
        weights = np.arange(1, self.dimension + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
        sums: npt.NDArray[np.uint64] = np.einsum("nd,d->n", bits, weights)  # wraps at 2^64,
        return sums

    def _damaged(self, what: str) -> InputError:
        return InputError(f"embedding store {self.folder} is damaged: {what}; delete the folder and embed anew")

    def _unlike(self, found: str, asked: str, remedy: str) -> InputError:
        return InputError(f"embedding store {self.folder} is of {found}, not {asked}: {remedy}, or use another folder")


def content_keys(contents: pl.Series, kind: str) -> pl.Series:
    """The sha256 (hexadecimal) of each content: a text as UTF-8, an image's bytes, or the file at its path.

    Raises:
        EncoderError: an image file that cannot be read.
    """
    if kind == "image" and contents.dtype == pl.String:
        keys = [_file_key(path) for path in contents]
    elif contents.dtype == pl.String:
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in contents]
    else:
        keys = [hashlib.sha256(image).hexdigest() for image in contents]
    return pl.Series("id", keys, pl.String)


def _file_key(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EncoderError(f"image {path!r} cannot be read: {why}") from error


def _npy_header(rows: int, dimension: int, dtype: np.dtype[Any]) -> bytes:
    """The 128 bytes before the numbers of an .npy file (version 1.0), whatever the number of rows."""
    descr, shape = dtype.newbyteorder("<").str, f"({rows}, {dimension})"
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.encode().ljust(_HEADER - 11) + b"\n"
