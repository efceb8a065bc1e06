"""Which data set a folder holds."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pal._checks import path_of
from pal.comparisons import Comparisons
from pal.datasets import persona, pickapic, polis, ukpconvarg
from pal.datasets._files import folder_of
from pal.errors import InputError

__all__ = ["from_folder", "recognise"]

# name -> what people call it, the files that tell it (or patterns of them), the loader
_KNOWN: dict[str, tuple[str, tuple[str, ...], Callable[..., Comparisons]]] = {
    "persona": ("the persona files", persona.FILES, persona.persona),
    "pickapic": ("Pick-a-Pic", pickapic.FILES, pickapic.pickapic),
    "polis": ("a Polis export", polis.FILES, polis.polis),
    "ukpconvarg": ("the UKPConvArg tables", ukpconvarg.FILES, ukpconvarg.ukpconvarg),
}


def recognise(path: str | Path) -> str | None:
    """The name of the data set in a folder ("persona", "pickapic", "polis", "ukpconvarg"), None if it holds none."""
    folder = path_of("folder", path)
    for name, (_, files, _) in _KNOWN.items():
        if not _missing(folder, files):
            return name
    return None


def from_folder(path: str | Path, **options: Any) -> Comparisons:
    """Reads the data set that a folder holds.

    Args:
        path: the folder.
        options: of the loader, such as `min_votes=20` for a Polis export.

    Raises:
        InputError: nothing is recognised in the folder, or the loader has no such option.
    """
    folder = folder_of(path)
    name = recognise(folder)
    if name is None:
        raise InputError(f"{path}: {_why_not(folder)}")
    what, _, loader = _KNOWN[name]
    known = [option for option in inspect.signature(loader).parameters if option not in ("folder", "source")]
    for option in options:
        if option not in known:
            raise InputError(f"{path} holds {what}: there is no option '{option}'; there are {', '.join(known)}")
    return loader(folder, **options)


def _why_not(folder: Path) -> str:
    for what, files, _ in _KNOWN.values():
        missing = _missing(folder, files)
        if len(missing) < len(files):
            return f"looks like {what}, but {missing[0]} is missing; download it again"
    inside = sorted(child.name for child in folder.iterdir() if child.is_dir() and recognise(child))
    if inside:
        return f"holds {len(inside)} data set{'s' * (len(inside) > 1)} ({', '.join(inside[:4])}); name one"
    looked = "; ".join(f"{what} ({', '.join(files)})" for what, files, _ in _KNOWN.values())
    return f"no data set in this folder; looked for {looked}. A table of comparisons is named by its file"


def _missing(folder: Path, files: tuple[str, ...]) -> list[str]:
    return [file for file in files if not any(found.is_file() for found in folder.glob(file))]
