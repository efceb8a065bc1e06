"""The report: one self-contained page about a fit, for people. It draws the record of `pal.summary`."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from pal import _report_parts as parts_of
from pal.errors import InputError, MissingExtraError
from pal.model import RewardModel

__all__ = ["render", "write_report"]

Record = Mapping[str, Any]

_SHAPES: dict[str, type] = {
    "data": dict,
    "models": dict,
    "difference": dict,
    "people": dict,
    "training": dict,
    "selection": list,
    "shots": list,
    "shots_btl": list,
    "prototypes": list,
    "divisive": list,
    "agreed": list,
    "verdict": str,
}
_NEEDED = ("data", "models", "prototypes", "people", "training")


def write_report(model: RewardModel | str | Path, path: str | Path, *, title: str | None = None) -> Path:
    """Writes the report of a model, or of a model folder, as one HTML file.

    A model that was saved by hand has no record of its measurements: the page then shows what the folder holds, and
    says what is missing.

    Args:
        model: a model whose `metrics` are the record, or its folder or Hub id.
        path: the file to write.
        title: of the page; None: from the name of the data.

    Returns:
        The path.

    Raises:
        SavedModelError: no such model folder.
        InputError: its metrics.json is not a record, or there is nothing to show.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    _need_extra()
    if not isinstance(model, RewardModel):
        name = Path(model).name
        model = RewardModel.from_pretrained(model)
    else:
        name = "model"
    record = dict(model.metrics)
    if "training" not in record:
        plain = {k: v for k, v in record.items() if isinstance(v, int | float | str)}
        record["training"] = {**asdict(model.config), **plain}
    data = record.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    page = render(record, model.users.to_frame(), title=title or f"Preferences in {source or name}")
    path = Path(path)
    _write(path, page)
    return path


def _write(path: Path, page: str) -> None:
    """A kill leaves the old page or the new one."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file, as {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}: choose another place") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        Path(fresh).chmod(0o644)
        Path(fresh).replace(path)
    finally:
        Path(fresh).unlink(missing_ok=True)


def _need_extra() -> None:
    if not all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib")):
        raise MissingExtraError("the report", "report")


def render(record: Record, users: pl.DataFrame, *, title: str) -> str:
    """The page as HTML: nothing is loaded from elsewhere, and every text of the data is escaped.

    Args:
        record: as of `pal.summary.summarise`; parts that are missing or empty are left out, and named on the page.
        users: user_id, n_comparisons, weights (K), as of a model folder.
        title: of the page.

    Raises:
        InputError: a part of the record is not of its kind, or there is nothing to show at all.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    _need_extra()
    from jinja2 import Environment, StrictUndefined

    for key, shape in _SHAPES.items():
        if record.get(key) is not None and not isinstance(record[key], shape):
            kind = "object" if shape is dict else "list"
            raise InputError(
                f"metrics.json: '{key}' must be a JSON {kind}, found {type(record[key]).__name__}: run pal fit again"
            )
    if not users.height and not any(record.get(key) for key in _SHAPES):
        raise InputError("there is nothing to report: no users, and metrics.json is empty; run pal fit")
    weights = parts_of.weights_of(users)
    parts: dict[str, Callable[[], Any]] = {
        "verdict": lambda: parts_of.words(record),
        "figures": lambda: parts_of.key_figures(record, weights),
        "models": lambda: parts_of.models(record),
        "selection": lambda: parts_of.selection(record),
        "shots": lambda: parts_of.shots(record),
        "standing": lambda: parts_of.standing(weights),
        "opinions": lambda: parts_of.opinions(record, weights),
        "people": lambda: parts_of.people(record),
        "data": lambda: parts_of.data(record),
        "making": lambda: parts_of.making(record),
    }
    view: dict[str, Any] = {}
    for name, build in parts.items():
        try:
            view[name] = build()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            found = f"{type(error).__name__}: {error}"
            raise InputError(
                f"metrics.json: its part for '{name}' cannot be read ({found}): run pal fit again"
            ) from error
    missing = [key for key in _NEEDED if not record.get(key)]
    text = resources.files("pal").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(title=title, missing=missing, **view)
