"""Commands that look into data and methods: compare, select, simulate, reproduce."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import pal
from pal import baselines, simulation
from pal._commands.options import (
    By,
    Data,
    Embeddings,
    EncoderName,
    Images,
    Json,
    Kind,
    MinVotes,
    Seed,
    Source,
    numbers_of,
    prototypes_of,
    warn_of_repeats,
)
from pal._printing import (
    print_choice,
    print_comparison,
    print_experiments,
    print_json,
    say,
)
from pal.errors import InputError
from pal.training import TrainConfig

__all__ = ["compare", "reproduce", "select", "simulate"]


def compare(
    data: Data,
    models: Annotated[
        str, typer.Option(help=f"Some of {', '.join(sorted(baselines.BASELINES))}, pal, pal-a, pal-b.")
    ] = "majority,btl-linear,per-user,btl,pal",
    seeds: Annotated[int, typer.Option(help="Splits and runs to average over.")] = 5,
    prototypes: Annotated[str, typer.Option(help="Of PAL: N, a range, or auto.")] = "auto",
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    unseen_users: Annotated[float, typer.Option(help="Share of people kept apart as new.")] = 0.2,
    shots: Annotated[str, typer.Option(help="Numbers of answers of new people.")] = "0,5,20",
    draws: Annotated[int, typer.Option(help="Of new people's answers: more where they are few.")] = 1,
    by: By = "comparison",
    reference: Annotated[str | None, typer.Option(help="Differences are from it; the last model without it.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    min_votes: MinVotes = 10,
    as_json: Json = False,
) -> None:
    """Every model on the same splits, one table with intervals.

    Example: pal compare answers.parquet --models btl,per-user,pal --seeds 5
    """
    embedded = Source(data, encoder, embeddings, images, min_votes).load()
    names = [name.strip() for name in models.split(",") if name.strip()]
    config = TrainConfig(n_prototypes=prototypes_of(prototypes))
    rows = baselines.compare(
        embedded,
        names,
        config,
        seeds,
        unseen_users,
        numbers_of(shots),
        reference=reference,
        draws=draws,
        by=by,
        workers=workers,
    )
    warn_of_repeats(embedded.comparisons, str(data))
    if as_json:
        print_json(rows)
    else:
        print_comparison(rows, seeds, reference or names[-1])


def select(
    data: Data,
    prototypes: Annotated[str, typer.Option(help="Numbers to try, such as 1-5 or 1,3,8.")] = "1,2,3,5",
    model: Annotated[
        Kind | None, typer.Option(help="As in fit.  [default: b where prompts vary, unless a is clearly better]")
    ] = None,
    folds: Annotated[int, typer.Option(help="Parts of each person's answers, each held out once.")] = 5,
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    min_votes: MinVotes = 10,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Cross-validates the number of prototypes, and tests whether there is plurality at all.

    Example: pal select answers.parquet --prototypes 1-5
    """
    wanted = prototypes_of(prototypes)
    embedded = Source(data, encoder, embeddings, images, min_votes).load()
    choice = pal.select(embedded, wanted, TrainConfig(model=model), folds=folds, seed=seed)
    warn_of_repeats(embedded.comparisons, str(data))
    if as_json:
        print_json({**choice.__dict__, "table": choice.table.to_dicts()})
    else:
        print_choice(choice)


def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for comparisons.parquet and embeddings.parquet.")],
    model: Annotated[Kind, typer.Option(help="Fixed prototypes, or prompt prototypes.")] = "a",
    users: Annotated[int, typer.Option(help="People.")] = 100,
    prototypes: Annotated[int, typer.Option(help="K of the truth.")] = 3,
    dim: Annotated[int, typer.Option(help="Of the embeddings.")] = 16,
    per_user: Annotated[int, typer.Option(help="Answers a person.")] = 100,
    kind: Annotated[
        Literal["partition", "mixture", "homogeneous"], typer.Option(help="How people stand to the prototypes.")
    ] = "partition",
    noise: Annotated[float, typer.Option(help="Of the answers; 0: none.")] = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Writes a simulated population (paper, E.1) as tables that `pal fit --embeddings` takes.

    Example: pal simulate -o town --users 100 --prototypes 3
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: choose a folder")
    population = simulation.population(model, users, prototypes, dim, per_user, kind, seed, noise=noise)
    files = simulation.write(population, out)
    if as_json:
        print_json({"comparisons": len(population), "files": [str(f) for f in files]})
    else:
        say(f"{len(population)} comparisons in {files[0]}, vectors in {files[1]}, the truth in {files[2]}.")


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; without any, all.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for NAME.json, pictures and cached cells.")] = Path(
        "paper"
    ),
    scale: Annotated[str, typer.Option(help="small (minutes) or paper (as large as the paper's).")] = "small",
    seeds: Annotated[int | None, typer.Option(help="Data sets and starts of each setting; 1 if small, else 5.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Only list the experiments, as JSON.")] = False,
    as_json: Json = False,
) -> None:
    """Runs tables and figures of the paper again, with its numbers beside ours.

    A killed call goes on where it was when it is made again. Ends with exit code 1 where a check failed.

    Example: pal reproduce figure-4 --scale small -o paper
    """
    from pal.paper._runner import listing, show
    from pal.paper._runner import reproduce as run

    if show_list:
        print_json(listing(scale, seeds, out))
        return
    records = run(names or (), scale, seeds, out, show)
    if as_json:
        print_json([{key: value for key, value in record.items() if key != "rows"} for record in records])
    else:
        print_experiments(records)
    if any(not check["ok"] for record in records for check in record.get("checks", [])):
        raise typer.Exit(1)
