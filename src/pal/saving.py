"""Model folders: config.json, model.safetensors, users.parquet, metrics.json, README.md. Tensors and tables only."""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pal._checks import path_of
from pal.errors import SavedModelError

__all__ = ["FORMAT", "check_replaceable", "plain_values", "read_folder", "write_folder"]

FORMAT = "pal-model-1"
FILES = ("config.json", "model.safetensors", "users.parquet", "metrics.json", "README.md")
_WRITING = "writing-"


def write_folder(
    folder: Path,
    config: dict[str, Any],
    state: dict[str, Tensor],
    users: pl.DataFrame,
    metrics: dict[str, Any],
) -> None:
    """Writes a model folder as a whole: a kill leaves the old one or the new one.

    What a killed write left beside the folder goes with the next write; writers of one folder take turns.

    Raises:
        SavedModelError: the path is a file, a folder that holds something else than a model, or one where nothing may
            be written.
    """
    folder = folder.resolve()  # through a link: what it points to is replaced, not kept beside
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _turn(folder) as alone:
        if alone:
            _sweep(folder)
        _replace(folder, config, state, users, plain_values(metrics))


def _replace(
    folder: Path, config: dict[str, Any], state: dict[str, Tensor], users: pl.DataFrame, metrics: dict[str, Any]
) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{_WRITING}", dir=folder.parent))
    try:
        (fresh / "model.safetensors").write_bytes(save(state))
        users.write_parquet(fresh / "users.parquet")
        hashes = {name: _sha256(fresh / name) for name in ("model.safetensors", "users.parquet")}
        head = {"format": FORMAT, "sha256": hashes, "config": config}
        (fresh / "config.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
        (fresh / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(_card(config, len(users), metrics), encoding="utf-8")
        for name in FILES:
            _sync(fresh / name)
        fresh.chmod(0o755)
        _sync(fresh)
        previous = _previous(folder)
        if previous.exists() and folder.exists():
            shutil.rmtree(previous)
        if folder.exists():
            folder.rename(previous)  # a kill here: read_folder finds the old one under this name
        fresh.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Whether a model may be written here; asked before long work, so that it is not lost.

    Raises:
        SavedModelError: the path is a file, a folder that holds something else than a model, or one where nothing may
            be written.
    """
    if folder.exists():
        odd = [] if not folder.is_dir() else sorted(p.name for p in folder.iterdir() if p.name not in FILES)
        if not folder.is_dir() or odd:
            found = f"it holds {odd[0]!r}" if odd else "it is a file"
            raise SavedModelError(f"{folder}: not replaced by a model, since {found}: choose another folder")
    above = next(path for path in folder.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SavedModelError(f"{folder}: cannot be written, {above} is no folder that may be written to")


def read_folder(
    name: str | Path,
) -> tuple[dict[str, Any], dict[str, Tensor], pl.DataFrame, dict[str, Any]]:
    """Config, tensors, users and metrics of a model folder, or of a Hub id.

    Raises:
        SavedModelError: nothing there, or files that are truncated, changed or not of this kind.
    """
    folder = path_of("folder", name)
    if not folder.exists() and _previous(folder.resolve()).exists():
        folder = _previous(folder.resolve())
    if not folder.is_dir():
        folder = _download(str(name))
    for file in FILES[:4]:
        if not (folder / file).is_file():
            there = (folder / "config.json").is_file()
            what = "the model is not whole: copy it anew" if there else "is it a folder that pal wrote?"
            raise SavedModelError(f"{folder}: no {file} here: {what}")
    head = _json(folder / "config.json")
    if head.get("format") != FORMAT or not isinstance(head.get("config"), dict):
        raise SavedModelError(
            f"{folder / 'config.json'}: format {head.get('format')!r}, this version of pal reads {FORMAT!r}: "
            "fit the model anew, or use the version that wrote it"
        )
    if odd := sorted(set(head) - {"format", "config", "sha256"}):
        raise SavedModelError(f"{folder / 'config.json'}: unknown keys {odd}: was it written by this version?")
    hashes = head.get("sha256")
    if not isinstance(hashes, dict):
        raise SavedModelError(f"{folder / 'config.json'}: no table 'sha256' of the files it was written with")
    for file in ("model.safetensors", "users.parquet"):
        if hashes.get(file) != _sha256(folder / file):
            raise SavedModelError(
                f"{folder / file}: not the file that config.json was written with (truncated or changed): copy it anew"
            )
    try:
        state = load((folder / "model.safetensors").read_bytes())
        users = pl.read_parquet(folder / "users.parquet")
    except (SafetensorError, pl.exceptions.PolarsError, OSError) as error:
        raise SavedModelError(f"{folder}: cannot be read: {' '.join(str(error).split())}") from None
    return head["config"], state, users, _json(folder / "metrics.json")


def _previous(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.previous"


@contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """Waits until nobody else writes this folder; yields False where the file system has no locks."""
    path = folder.parent / f".{folder.name}.lock"
    lock = _locked(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and asks anew
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The descriptor of the locked file; filelock is not used since it leaves its file behind."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        held = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = os.path.samestat(os.fstat(lock), path.stat())
            if held:
                return lock
        except FileNotFoundError:
            pass  # whoever held it took the file away
        except OSError:
            return None
        finally:
            if not held:
                os.close(lock)


def _sweep(folder: Path) -> None:
    """Removes what killed writes left: called by whoever has the turn, so that their writers are dead."""
    leftover = re.compile(re.escape(f".{folder.name}.{_WRITING}") + "[a-z0-9_]+")
    for path in folder.parent.iterdir():
        if leftover.fullmatch(path.name):
            try:
                shutil.rmtree(path)
            except OSError as error:
                found = error.strerror or error
                raise SavedModelError(
                    f"{path}: left by a killed save, and cannot be removed ({found}): remove it"
                ) from None


def _download(name: str) -> Path:
    looks_like_hub_id = name.count("/") == 1 and not name.startswith((".", "/")) and not name.endswith("/")
    if not looks_like_hub_id:
        raise SavedModelError(f"{name}: no such model folder; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SavedModelError(f"{name}: no such folder, and not to be had from the Hub: {first}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SavedModelError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SavedModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _card(config: dict[str, Any], n_users: int, metrics: dict[str, Any]) -> str:
    measured = metrics.get("models", {}).get("pal", metrics)
    rows = [
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in measured.items()
        if isinstance(value, int | float | str)
    ]
    table = "\n".join(["| measure | value |", "|---|---|", *rows]) if rows else "Nothing was measured."
    encoder = config["encoder"] or "own vectors"
    return f"""---
library_name: pal
tags: [reward-model, preference-learning, personalization, pluralistic-alignment]
---

# A pluralistic reward model

Model {config["model"].upper()} with K = {config["n_prototypes"]} prototypes ({config["map"]} maps, latent dimension
{config["latent_dim"]}), on embeddings by {encoder}; it knows {n_users} users.

```python
import pal

model = pal.RewardModel.from_pretrained("this folder")
```

{table}

`users.parquet` holds a row for each person the model knows: their id and weights. Share the folder only where these
people agree; `pal adapt --remove` takes a person out.
"""


def plain_values(value: Any) -> Any:
    """The value as JSON has it; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain_values(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
