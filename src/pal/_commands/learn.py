"""Commands that make a model: demo, fit."""

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import typer

import pal
from pal import baselines, distributed, simulation
from pal._commands.options import (
    SHOTS,
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
    several,
)
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

__all__ = ["demo", "fit"]

_REPEATS = 0.01  # of test answers; fewer change no measure


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
        Kind | None, typer.Option(help="Fixed prototypes, or prompt prototypes.  [default: b where prompts vary]")
    ] = None,
    prototypes: Annotated[str, typer.Option(help="N, a range such as 1-5, or auto.")] = "auto",
    map_kind: Annotated[Literal["mlp", "linear"], typer.Option("--map", help="Of responses, and of prompts.")] = "mlp",
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    joint: Annotated[bool, typer.Option("--joint", help="Embed prompt and response as one text (model a).")] = False,
    by: Annotated[
        Literal["comparison", "pair", "prompt", "item", "assigned"], typer.Option(help="What parts do not share.")
    ] = "comparison",
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
        map=map_kind,
        loss=loss,
        seed=seed,
        device=device,
        progress=True,
    )
    mode = "joint" if joint else "separate"
    source = Source(data, encoder, embeddings, images, min_votes, mode, workers, ray_address)
    split = {"unseen_users": unseen_users, "test": test, "validation": validation, "by": by}
    group = {"workers": workers, "address": ray_address} if several(workers, ray_address) else None
    record = _fit(source.load(), str(data), out, config, split, start, group)
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
    start: str | None = None,
    group: dict[str, Any] | None = None,
) -> dict[str, Any]:
    check_replaceable(out)
    parts = data.split(**(split or {}), seed=config.seed)
    if not len(parts.test):
        raise InputError(f"{source}: no test answers: people need more of them, or --test a larger share")
    _warn_of_repeats(parts, source)
    # a corrected table is other data: it begins anew
    key = hashlib.sha256(repr((data.fingerprint(), config, split, start)).encode()).hexdigest()[:12]
    folder = out.with_name(f".{out.name}.checkpoint")
    begin = None if start is None else RewardModel.from_pretrained(start)
    options: dict[str, Any] = {"start": begin, "checkpoint": folder / key}
    if group is None:
        result = pal.fit(parts.train, parts.validation, config, **options)
    else:
        result = distributed.fit(parts.train, parts.validation, config, **options, **group)
    others: dict[str, Any] = {} if result.pooled is None else {"btl": result.pooled}
    for name in sorted(set(baselines.USUAL) - set(others)):
        others[name] = baselines.fit(name, parts.train, parts.validation, config, seed=config.seed)
    record: dict[str, Any] = summarise(
        result.model, result, parts, others, source=source, seed=config.seed, shots=SHOTS
    )
    result.model.metrics = record
    result.model.save_pretrained(out)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _warn_of_repeats(parts: Parts[EmbeddedComparisons], source: str) -> None:
    """Answers that stand in the table twice may be tested where they were learned."""
    leaks = parts.leakage().table.filter((pl.col("part_a") == "train") & (pl.col("part_b") == "test"))
    share = float(leaks.filter(pl.col("what") == "comparison")["share"].sum())
    if share >= _REPEATS:
        warn(
            f"warning: {source}: {share:.1%} of test answers repeat a question that the same person has in training, "
            "which makes them easier than new ones: leave out repeated rows, or split with --by pair"
        )
