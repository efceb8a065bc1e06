"""Where the data of other people are: folders that PAL does not ship."""

import os
from pathlib import Path

__all__ = ["data_folder"]


def data_folder(name: str) -> Path | None:
    """The folder of that name in $PAL_DATA, else in `shared/data` beside the working folder; None if there is none."""
    given = os.environ.get("PAL_DATA")
    root = Path(given).expanduser() if given else Path.cwd().parent / "shared" / "data"
    folder = root / name
    return folder if folder.is_dir() else None
