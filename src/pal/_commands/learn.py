"""Commands that make a model: demo, fit."""

import hashlib
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

import pal
from pal import baselines, distributed, simulation
from pal._commands.options import (
    SHOTS,
    By,
    Data,
    Embeddings,
    EncoderName,
    Images,
    Json,
    Kind,
    MinVotes,
    RayAddress,
    Seed,
    Source,
    Workers,
    prototypes_of,
    refuse_texts,
    several,
    warn_of_repeats,
)
from pal._distributed.cluster import connected
from pal._printing import (
    print_fit,
    print_json,
    say,
    warn,
)
from pal.comparisons import Parts
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.model import RewardModel
from pal.report import write_report
from pal.saving import check_replaceable
from pal.summary import summarise
from pal.training import TrainConfig
from pal.users import rows_of

__all__ = ["demo", "fit"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The report.")] = Path("report.html"),
    model_dir: Annotated[Path, typer.Option(help="The model folder.")] = Path("demo/model"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole story on a built-in population: fit, choose K, adapt new people, report.

    Example: pal demo -o report.html
    """
    data = pal.embed(simulation.demo(seed=seed), "hashing")
    record = _fit(
        data, "the built-in town", model_dir, TrainConfig(n_prototypes=(1, 2, 3, 4, 5), seed=seed, progress=True)
    )
    write_report(model_dir, out)
    if as_json:
        print_json({**record, "model": str(model_dir), "report": str(out)})
    else:
        print_fit(record)
        say(f"The model is in {model_dir}, the report in {out}.")


def fit(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    model: Annotated[
        Kind | None,
        typer.Option(
            help="Fixed prototypes, or prompt prototypes.  [default: b where prompts vary, unless a is clearly better]"
        ),
    ] = None,
    prototypes: Annotated[str, typer.Option(help="N, a range such as 1-5, or auto.")] = "auto",
    map_kind: Annotated[
        Literal["mlp", "linear"] | None, typer.Option("--map", help="Of responses, and of prompts.  [default: mlp]")
    ] = None,
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    joint: Annotated[bool, typer.Option("--joint", help="Embed prompt and response as one text (model a).")] = False,
    by: By = "comparison",
    unseen_users: Annotated[float, typer.Option(help="Share of people kept apart as new.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of each other person's answers for the test.")] = 0.1,
    validation: Annotated[float, typer.Option(help="Likewise for validation.")] = 0.1,
    loss: Annotated[
        Literal["logistic", "hinge", "smooth_hinge", "exponential"], typer.Option(help="Of a margin.")
    ] = "logistic",
    start: Annotated[str | None, typer.Option(help="Model folder to go on from.")] = None,
    min_votes: MinVotes = 10,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to train.")] = "auto",
    workers: Workers = 1,
    ray_address: RayAddress = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Split, embed, train and save; print PAL beside the baselines.

    A killed call goes on where it was when it is made again.

    Example: pal fit answers.parquet -o model --prototypes auto
    """
    config = TrainConfig(
        model=model,
        n_prototypes=prototypes_of(prototypes),
        map=map_kind or "mlp",
        loss=loss,
        seed=seed,
        device=device,
        progress=True,
    )
    mode = "joint" if joint else "separate"
    begin = None if start is None else RewardModel.from_pretrained(start)
    if begin is not None and map_kind not in (None, begin.config.map):  # the default, said, is asked for, too
        raise InputError(f"the model to start from has map={begin.config.map!r}, but map={map_kind!r} is asked for")
    if begin is not None and encoder is None and embeddings is None:
        refuse_texts(begin, embeddings)
        encoder = begin.config.encoder
    source = Source(data, encoder, embeddings, images, min_votes, mode, workers, ray_address)
    split = {"unseen_users": unseen_users, "test": test, "validation": validation, "by": by}
    group: dict[str, Any] | None = (
        {"workers": workers, "address": ray_address} if several(workers, ray_address) else None
    )
    with nullcontext() if group is None else connected(**group):  # one cluster for all of it
        embedded = source.load()
        record = _fit(embedded, str(data), out, config, split, begin, group)
    if by == "comparison":
        warn_of_repeats(embedded.comparisons, str(data))
    if as_json:
        print_json(record)
    else:
        print_fit(record)
        say(f"The model is in {out}; 'pal report {out}' draws it.")


def _fit(
    data: EmbeddedComparisons,
    source: str,
    out: Path,
    config: TrainConfig,
    split: dict[str, Any] | None = None,
    start: RewardModel | None = None,
    group: dict[str, Any] | None = None,
) -> dict[str, Any]:
    check_replaceable(out)
    parts = data.split(**(split or {}), seed=config.seed)
    if not len(parts.test):
        raise InputError(f"{source}: no test answers: people need more of them, or --test a larger share")
    # a corrected table is other data: it begins anew
    begun = None if start is None else [float(tensor.double().sum()) for tensor in start.state_dict().values()]
    key = hashlib.sha256(repr((data.fingerprint(), config, split, begun)).encode()).hexdigest()[:12]
    folder = out.with_name(f".{out.name}.checkpoint")
    options: dict[str, Any] = {"start": start, "checkpoint": folder / key}
    if group is None:
        result = pal.fit(parts.train, parts.validation, config, **options)
    else:
        result = distributed.fit(parts.train, parts.validation, config, **options, **group)
    if start is not None:
        parts = _strangers(parts, start)
    others: dict[str, Any] = {} if result.pooled is None else {"btl": result.pooled}
    for name in sorted({"btl", *baselines.USUAL} - set(others)):
        others[name] = baselines.fit(name, parts.train, parts.validation, config)
    record: dict[str, Any] = summarise(
        result.model, result, parts, others, source=source, seed=config.seed, shots=SHOTS
    )
    result.model.metrics = record
    result.model.save_pretrained(out)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _strangers(parts: Parts[EmbeddedComparisons], start: RewardModel) -> Parts[EmbeddedComparisons]:
    """The parts with nobody among the new people whom the model to start from knows."""
    table = parts.unseen.comparisons
    known = rows_of(table.user_ids, start.user_ids)[table.user] >= 0
    if known.any():
        people = len(np.unique(table.user[known]))
        warn(f"{people} of the people kept apart are known to the model to start from: not measured as new")
    return replace(parts, unseen=parts.unseen.take(~known))
