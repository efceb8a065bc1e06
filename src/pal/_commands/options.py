"""Options that commands share, what they mean, and where data come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import pal
from pal import distributed
from pal._printing import warn
from pal._splits import share_apart
from pal.comparisons import Comparisons
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError, UnknownUserError
from pal.model import RewardModel

__all__ = [
    "SHOTS",
    "By",
    "Data",
    "Embeddings",
    "EncoderName",
    "Images",
    "Json",
    "Kind",
    "MinVotes",
    "ModelFolder",
    "RayAddress",
    "Seed",
    "Source",
    "Workers",
    "default_encoder",
    "numbers_of",
    "prototypes_of",
    "refuse_texts",
    "several",
    "user_id_of",
    "warn_of_repeats",
]

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Comparison table (parquet, jsonl, csv) or a data set's folder (Polis, persona, UKPConvArg).",
    ),
]
By = Annotated[
    Literal["comparison", "pair", "prompt", "item", "assigned"], typer.Option(help="What parts do not share.")
]
Kind = Literal["a", "b"]
ModelFolder = Annotated[str, typer.Argument(metavar="DIR", help="Model folder, or a Hub id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
EncoderName = Annotated[
    str | None,
    typer.Option("--encoder", help="Encoder: a name, a folder, a Hub id, or 'hashing'.  [default: all-MiniLM-L6-v2]"),
]
Embeddings = Annotated[
    Path | None, typer.Option(help="Own vectors: parquet with columns id and embedding (list of float).")
]
Images = Annotated[bool, typer.Option("--images", help="Responses are paths of images.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Workers = Annotated[int, typer.Option(help="Processes, on Ray (extra 'ray'), for much data; 1: this one alone.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="HOST:PORT of a Ray cluster that runs, or auto.  [default: start a local one]"),
]
MinVotes = Annotated[int, typer.Option(help="Polis: people with at least this many agree / disagree votes.")]
SHOTS = (0, 1, 2, 5, 10, 20)
_REPEATS = 0.01  # of the answers; fewer change no measure


@dataclass(frozen=True)
class Source:
    """Where data come from and how they are embedded."""

    data: Path
    encoder: str | None = None
    embeddings: Path | None = None
    images: bool = False
    min_votes: int = 10
    prompt_mode: str = "separate"
    workers: int = 1
    ray_address: str | None = None

    def comparisons(self) -> pal.Comparisons:
        if self.data.is_dir():
            options = {"min_votes": self.min_votes} if pal.datasets.recognise(self.data) == "polis" else {}
            return pal.datasets.from_folder(self.data, **options)
        return pal.Comparisons.read(self.data, images=self.images)

    def load(self) -> EmbeddedComparisons:
        if self.embeddings is not None and self.encoder is not None:
            raise InputError("--embeddings and --encoder are both given: leave one out")
        comparisons = self.comparisons()
        if self.embeddings is not None:
            return pal.embed(comparisons, embeddings=str(self.embeddings), prompt_mode=self.prompt_mode)
        encoder = self.encoder or default_encoder(self.images)
        if comparisons.responses.contents is None:
            raise InputError(f"{self.data}: its columns hold ids without texts: pass their vectors with --embeddings")
        if several(self.workers, self.ray_address) and self.data.is_file():
            group: dict[str, Any] = {"workers": self.workers, "address": self.ray_address}
            distributed.embed(self.data, encoder, prompt_mode=self.prompt_mode, images=self.images, **group)
        return pal.embed(comparisons, encoder, store=True, progress=True, prompt_mode=self.prompt_mode)

    @classmethod
    def for_model(cls, model: RewardModel, data: Path, embeddings: Path | None, images: bool) -> "Source":
        """The data as the model takes them."""
        refuse_texts(model, embeddings)
        mode = "separate" if model.config.prompt in ("separate", "concatenate") else model.config.prompt
        encoder = model.config.encoder if embeddings is None else None
        return cls(data, encoder, embeddings, images, min_votes=1, prompt_mode=mode)  # nobody is left out


def refuse_texts(model: RewardModel, embeddings: Path | None) -> None:
    """Of a model of own vectors: those of another encoder may be as long."""
    if model.config.encoder is None and embeddings is None:
        raise InputError("this model was trained on own vectors: pass those of the data with --embeddings")


def default_encoder(images: bool) -> str:
    """Of texts, or of images."""
    return "efficientnet-lite0" if images else "all-MiniLM-L6-v2"


def warn_of_repeats(table: Comparisons, source: str) -> None:
    """Answers that stand in a table again may be held out where they were learned: those that splits do not join."""
    share = share_apart(table)
    if share >= _REPEATS:
        warn(
            f"warning: {source}: {share:.1%} of the answers are to a question that the same person answered in another "
            "row: held-out answers are no test where their copies were learned; leave out repeated rows"
        )


def several(workers: int, address: str | None) -> bool:
    """Whether work is for Ray."""
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    return workers > 1 or address is not None


def prototypes_of(text: str) -> int | str | tuple[int, ...]:
    """An N, a range A-B, a list A,B,C, or auto."""
    if text == "auto":
        return text
    try:
        if "," in text and min(numbers := tuple(int(part) for part in text.split(","))) >= 1:
            return numbers
        if "-" in text:
            low, high = (int(part) for part in text.split("-"))
            if 1 <= low <= high:
                return tuple(range(low, high + 1))
        elif int(text) >= 1:
            return int(text)
    except ValueError:
        pass
    known = "give a number such as 3, a range such as 1-5, a list such as 1,3,8, or auto"
    raise InputError(f"--prototypes {text!r}: {known}")


def numbers_of(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise InputError(f"--shots {text!r}: give numbers of at least 0, such as 0,1,5,10")
    return numbers


def user_id_of(
    model: RewardModel, text: str, remedy: str = "'pal adapt' with their answers makes them known"
) -> str | int:
    """The id as the model's table has it: ids there are all strings or all integers."""
    user: str | int = text
    if model.user_ids.dtype.is_integer():
        try:
            user = int(text)
        except ValueError:
            raise InputError(f"user {text!r}: the ids of this model are whole numbers") from None
    try:
        model.users.row(user)
    except UnknownUserError:
        raise UnknownUserError(f"the model does not know user {text!r}; {remedy}") from None
    return user
