"""A training run on disk: one safetensors file, replaced as a whole."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pal.errors import InputError, SavedModelError

__all__ = ["read", "write"]


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], fingerprint: str) -> None:
    """Writes tensors and plain values; a kill leaves the old file or the new one.

    Raises:
        SavedModelError: it cannot be written, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    meta = {"state": json.dumps(state), "fingerprint": fingerprint}
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, fresh, metadata=meta)
    except (SafetensorError, OSError) as error:
        fresh.unlink(missing_ok=True)
        raise SavedModelError(f"{fresh}: cannot be written: {error}") from None
    fresh.replace(path)


def read(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write` wrote.

    Raises:
        SavedModelError: the file is damaged.
        InputError: it is of other data or settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise SavedModelError(f"{path}: cannot be read: {error}: delete it to start anew") from None
    if meta.get("fingerprint") != fingerprint:
        raise InputError(f"{path}: a checkpoint of other data or settings: delete it, or use the same ones")
    return tensors, json.loads(meta["state"])
