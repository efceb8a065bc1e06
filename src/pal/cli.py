"""The `pal` command: parse, call, print."""

import hashlib
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import polars as pl
import typer
from rich.table import Table

import pal
from pal import baselines, distributed, simulation
from pal._printing import (
    plain,
    print_choice,
    print_comparison,
    print_experiments,
    print_fit,
    print_json,
    print_metrics,
    print_shots,
    print_table,
    say,
    warn,
)
from pal._tables.files import write_frame
from pal.embeddings import EmbeddedComparisons, EmbeddingStore, default_store, resolve_encoder
from pal.errors import InputError, PALError
from pal.model import RewardModel
from pal.report import write_report
from pal.saving import check_replaceable
from pal.selection import CANDIDATES
from pal.summary import summarise
from pal.training import TrainConfig
from pal.users import UserWeights

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Personalised reward models from comparisons with user ids.",
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Comparison table (parquet, jsonl, csv) or a data set's folder (Polis, persona, UKPConvArg).",
    ),
]
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
Workers = Annotated[int, typer.Option(help="Processes, on Ray (extra 'ray'); 1: this one alone.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="HOST:PORT of a Ray cluster that runs, or auto.  [default: start a local one]"),
]
MinVotes = Annotated[int, typer.Option(help="Polis: people with at least this many agree / disagree votes.")]
SHOTS = (0, 1, 2, 5, 10, 20)


@dataclass(frozen=True)
class _Source:
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
        comparisons = self.comparisons()
        if self.embeddings is not None:
            return pal.embed(comparisons, embeddings=str(self.embeddings), prompt_mode=self.prompt_mode)
        encoder = self.encoder or default_encoder(self.images)
        if comparisons.responses.contents is None:
            raise InputError(f"{self.data}: its columns hold ids without texts: pass their vectors with --embeddings")
        if _several(self.workers, self.ray_address) and self.data.is_file():
            group: dict[str, Any] = {"workers": self.workers, "address": self.ray_address}
            distributed.embed(self.data, encoder, prompt_mode=self.prompt_mode, images=self.images, **group)
        return pal.embed(comparisons, encoder, store=True, progress=True, prompt_mode=self.prompt_mode)

    @classmethod
    def for_model(cls, model: RewardModel, data: Path, embeddings: Path | None, images: bool) -> "_Source":
        """The data as the model takes them."""
        mode = "separate" if model.config.prompt in ("separate", "concatenate") else model.config.prompt
        return cls(data, model.config.encoder, embeddings, images, prompt_mode=mode)


def default_encoder(images: bool) -> str:
    """Of texts, or of images."""
    return "efficientnet-lite0" if images else "all-MiniLM-L6-v2"


def _several(workers: int, address: str | None) -> bool:
    """Whether work is for Ray."""
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    return workers > 1 or address is not None


@app.command()
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


@app.command()
def fit(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    model: Annotated[
        str | None, typer.Option(help="a (fixed prototypes) or b (prompt prototypes).  [default: b where prompts vary]")
    ] = None,
    prototypes: Annotated[str, typer.Option(help="N, a range such as 1-5, or auto.")] = "auto",
    map_kind: Annotated[str, typer.Option("--map", help="mlp or linear.")] = "mlp",
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    joint: Annotated[bool, typer.Option("--joint", help="Embed prompt and response as one text (model a).")] = False,
    by: Annotated[
        str, typer.Option(help="What parts do not share: comparison, pair, prompt, item, assigned.")
    ] = "comparison",
    unseen_users: Annotated[float, typer.Option(help="Share of people kept apart as new.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of each other person's answers for the test.")] = 0.1,
    validation: Annotated[float, typer.Option(help="Likewise for validation.")] = 0.1,
    loss: Annotated[str, typer.Option(help="logistic, hinge, smooth_hinge or exponential.")] = "logistic",
    start: Annotated[str | None, typer.Option(help="Model folder to go on from.")] = None,
    min_votes: MinVotes = 10,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
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
        n_prototypes=_prototypes(prototypes),
        map=map_kind,
        loss=loss,
        seed=seed,
        device=device,
        progress=True,
    )
    mode = "joint" if joint else "separate"
    source = _Source(data, encoder, embeddings, images, min_votes, mode, workers, ray_address)
    split = {"unseen_users": unseen_users, "test": test, "validation": validation, "by": by}
    group = {"workers": workers, "address": ray_address} if _several(workers, ray_address) else None
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
    key = hashlib.sha256(repr((source, config, split, start)).encode()).hexdigest()[:12]
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


@app.command()
def evaluate(
    model_dir: ModelFolder,
    data: Data,
    shots: Annotated[str, typer.Option(help="Numbers of answers of new people, such as 0,1,5,10.")] = "0,1,5,10",
    embeddings: Embeddings = None,
    images: Images = False,
    seeds: Annotated[int, typer.Option(help="Draws of the shots.")] = 3,
    as_json: Json = False,
) -> None:
    """Metrics on the people a model knows, and a shot curve on those it does not.

    The data should be answers the model was not trained on.

    Example: pal evaluate model new-answers.parquet --shots 0,5,20 --json
    """
    wanted = _numbers(shots)
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")
    model = RewardModel.from_pretrained(model_dir)
    embedded = _Source.for_model(model, data, embeddings, images).load()
    rows = model.users.rows(embedded.comparisons.user_ids)[embedded.comparisons.user]
    seen, unseen = embedded.take(rows >= 0), embedded.take(rows < 0)
    metrics = pal.evaluate(model, seen) if len(seen) else None
    curve = None
    if len(unseen):
        try:
            curve = pal.shot_curve(model, unseen, shots=wanted, seeds=seeds)
        except InputError as error:
            warn(str(error))
    if as_json:
        print_json(
            {"seen": None if metrics is None else metrics.to_dict(), "shots": [] if curve is None else curve.to_dicts()}
        )
        return
    if metrics is None:
        say("The model knows none of these people.")
    else:
        print_metrics({"this model": metrics.to_dict()}, f"{metrics.n_users} people the model knows")
    if curve is not None:
        print_shots(curve.to_dicts())


@app.command()
def adapt(
    model_dir: ModelFolder,
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Comparisons of new people.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Model folder to write.  [default: DIR]")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take this person out; may be given several times.")] = None,
    embeddings: Embeddings = None,
    images: Images = False,
    workers: Workers = 1,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Weights of new people, added to the model; or people taken out.

    Example: pal adapt model new-people.parquet -o model-2
    """
    model = RewardModel.from_pretrained(model_dir)
    if data is None and not remove:
        raise InputError("nothing to do: give DATA with answers of new people, or --remove ID")
    target = out or Path(model_dir)
    added, gaps = 0, list[float]()
    if data is not None:
        if _several(workers, ray_address):
            frame = _adapted(model_dir, data, target, embeddings, images, workers, ray_address)
            users, gaps = UserWeights.from_frame(frame, model.n_prototypes), frame["gap"].to_list()
        else:
            found = pal.adapt(model, _Source.for_model(model, data, embeddings, images).load())
            users, gaps = found, found.gap.tolist()
        model, added = model.with_users(users), len(users)
    if remove:
        model = model.without_users([_user_id(model, name) for name in remove])
    model.save_pretrained(target)
    if as_json:
        print_json({"added": added, "removed": len(remove or []), "n_users": len(model.users), "gap": gaps})
    else:
        say(f"{added} people added, {len(remove or [])} taken out; {target} knows {len(model.users)}.")


def _adapted(
    model_dir: str, data: Path, target: Path, embeddings: Path | None, images: bool, workers: int, address: str | None
) -> pl.DataFrame:
    """The users of a table, from several workers."""
    parts = target.with_name(f".{target.name}.adapted")
    options: dict[str, Any] = {"embeddings": embeddings, "images": images, "workers": workers, "address": address}
    distributed.adapt(model_dir, data, parts, **options)
    frame = distributed.users_of(parts)
    shutil.rmtree(parts)
    return frame


@app.command()
def rank(
    model_dir: ModelFolder,
    responses: Annotated[list[str], typer.Argument(metavar="RESPONSE...", help="Texts (or paths of images).")],
    user: Annotated[str | None, typer.Option(help="User id; without it, the population.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    as_json: Json = False,
) -> None:
    """Orders responses for one person, best first.

    Example: pal rank model --user u17 --prompt "What shall we cook?" "A soup." "A cake."
    """
    model = RewardModel.from_pretrained(model_dir)
    who = None if user is None else _user_id(model, user)
    rewards = model.reward(who, prompt=prompt, responses=responses, store=True)
    order = sorted(range(len(responses)), key=lambda i: -float(rewards[i]))
    if as_json:
        print_json([{"response": responses[i], "reward": float(rewards[i])} for i in order])
        return
    table = Table("", "reward", "response")
    for place, i in enumerate(order, 1):
        table.add_row(str(place), f"{rewards[i]:+.3f}", plain(responses[i]))
    print_table(table)


@app.command()
def score(
    model_dir: ModelFolder,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="File to write (parquet, jsonl, csv); of several workers a folder."),
    ],
    embeddings: Embeddings = None,
    images: Images = False,
    workers: Workers = 1,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Adds margin and P(left preferred) to a table of comparisons; of chosen and rejected, chosen is left.

    Example: pal score model answers.parquet -o scored.parquet
    """
    if _several(workers, ray_address):
        options: dict[str, Any] = {"embeddings": embeddings, "images": images, "workers": workers}
        rows = distributed.score(model_dir, data, out, **options, address=ray_address)
        _scored(rows, out, as_json)
        return
    model = RewardModel.from_pretrained(model_dir)
    embedded = _Source.for_model(model, data, embeddings, images).load()
    margin, probability = model.scores(embedded)
    frame = embedded.comparisons.to_frame().with_columns(
        margin=pl.Series(margin.numpy()), probability=pl.Series(probability.numpy())
    )
    write_frame(frame, out)
    _scored(len(frame), out, as_json)


def _scored(rows: int, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"rows": rows, "out": str(out)})
    else:
        say(f"{rows} rows in {out}.")


@app.command()
def embed(
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the embedding store.  [default: where pal fit looks for it]"),
    ] = None,
    encoder: EncoderName = None,
    images: Images = False,
    joint: Annotated[bool, typer.Option("--joint", help="Embed prompt and response as one text.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, or float16: half the disk.")] = "float32",
    min_votes: MinVotes = 10,
    workers: Workers = 1,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Embeds the items of a table into a store on disk, each once; other commands find them there.

    A killed call goes on where it was when it is made again.

    Example: pal embed answers.parquet --encoder all-MiniLM-L6-v2 --workers 4
    """
    name = encoder or default_encoder(images)
    mode = "joint" if joint else "separate"
    if _several(workers, ray_address):
        options: dict[str, Any] = {"prompt_mode": mode, "images": images, "dtype": dtype, "workers": workers}
        store = distributed.embed(data, name, out, **options, address=ray_address)
    else:
        comparisons = _Source(data, images=images, min_votes=min_votes).comparisons()
        used = resolve_encoder(name)
        folder = out or default_store(used, dtype)
        pal.embed(comparisons, used, store=folder, prompt_mode=mode, dtype=dtype, progress=True)
        store = EmbeddingStore(folder)
    if as_json:
        print_json({"out": str(store.folder), "rows": len(store), "dimension": store.dimension})
    else:
        say(f"{len(store)} vectors of dimension {store.dimension} in {store.folder}.")


@app.command()
def compare(
    data: Data,
    models: Annotated[
        str, typer.Option(help=f"Some of {', '.join(sorted(baselines.BASELINES))}, pal-a, pal-b.")
    ] = "majority,btl-linear,per-user,btl,pal-b",
    seeds: Annotated[int, typer.Option(help="Splits and runs to average over.")] = 5,
    prototypes: Annotated[str, typer.Option(help="Of PAL: N, a range, or auto.")] = "auto",
    encoder: EncoderName = None,
    embeddings: Embeddings = None,
    images: Images = False,
    unseen_users: Annotated[float, typer.Option(help="Share of people kept apart as new.")] = 0.2,
    shots: Annotated[str, typer.Option(help="Numbers of answers of new people.")] = "0,5,20",
    reference: Annotated[str | None, typer.Option(help="Differences are from it; the last model without it.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    min_votes: MinVotes = 10,
    as_json: Json = False,
) -> None:
    """Every model on the same splits, one table with intervals.

    Example: pal compare answers.parquet --models btl,per-user,pal-b --seeds 5
    """
    embedded = _Source(data, encoder, embeddings, images, min_votes).load()
    names = [name.strip() for name in models.split(",") if name.strip()]
    config = TrainConfig(n_prototypes=_prototypes(prototypes))
    rows = baselines.compare(
        embedded, names, config, seeds, unseen_users, _numbers(shots), reference=reference, workers=workers
    )
    if as_json:
        print_json(rows)
    else:
        print_comparison(rows, seeds, reference or names[-1])


@app.command()
def select(
    data: Data,
    prototypes: Annotated[str, typer.Option(help="Numbers to try, such as 1-5 or 1,3,8.")] = "1,2,3,5",
    model: Annotated[str | None, typer.Option(help="a or b; without it, b where prompts vary.")] = None,
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
    wanted = _prototypes(prototypes)
    tried = (wanted,) if isinstance(wanted, int) else CANDIDATES if isinstance(wanted, str) else wanted
    embedded = _Source(data, encoder, embeddings, images, min_votes).load()
    choice = pal.select(embedded, tried, TrainConfig(model=model), folds=folds, seed=seed)
    if as_json:
        print_json({**choice.__dict__, "table": choice.table.to_dicts()})
    else:
        print_choice(choice)


@app.command(name="report")
def report_command(
    model_dir: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One self-contained page: what was measured, who stands where, who is badly served.

    Example: pal report model -o report.html
    """
    write_report(model_dir, out)
    if as_json:
        print_json({"out": str(out)})
    else:
        say(f"The report is in {out}.")


@app.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for comparisons.parquet and embeddings.parquet.")],
    model: Annotated[str, typer.Option(help="a or b.")] = "a",
    users: Annotated[int, typer.Option(help="People.")] = 100,
    prototypes: Annotated[int, typer.Option(help="K of the truth.")] = 3,
    dim: Annotated[int, typer.Option(help="Of the embeddings.")] = 16,
    per_user: Annotated[int, typer.Option(help="Answers a person.")] = 100,
    kind: Annotated[str, typer.Option(help="partition, mixture or homogeneous.")] = "partition",
    noise: Annotated[float, typer.Option(help="Of the answers; 0: none.")] = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Writes a simulated population (paper, E.1) as tables that `pal fit --embeddings` takes.

    Example: pal simulate -o town --users 100 --prototypes 3
    """
    population = simulation.population(model, users, prototypes, dim, per_user, kind, seed, noise=noise)
    files = simulation.write(population, out)
    if as_json:
        print_json({"comparisons": len(population), "files": [str(f) for f in files]})
    else:
        say(f"{len(population)} comparisons in {files[0]}, vectors in {files[1]}, the truth in {files[2]}.")


@app.command()
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


# -- parsing -------------------------------------------------------------------------------------------------------


def _prototypes(text: str) -> int | str | tuple[int, ...]:
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


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise InputError(f"--shots {text!r}: give numbers of at least 0, such as 0,1,5,10")
    return numbers


def _user_id(model: RewardModel, text: str) -> str | int:
    """The id as the model's table has it: ids there are all strings or all integers."""
    if model.user_ids.dtype.is_integer():
        try:
            return int(text)
        except ValueError:
            raise InputError(f"user {text!r}: the ids of this model are whole numbers") from None
    return text


def main() -> NoReturn:
    """Runs the command; bad input gives one line on stderr and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {' '.join(str(message).split())}")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except PALError as error:
        warn(" ".join(str(error).split()))
        code = 2
    except typer.Exit as error:
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        warn("stopped")
        code = 130
    except BrokenPipeError:
        code = 0
    except OSError as error:  # a folder that may not be written, a full disk
        warn(f"{error.filename or 'file'}: {error.strerror or error}")
        code = 2
    except Exception as error:  # typer's usage errors share no public base class
        if not hasattr(error, "format_message"):
            raise
        warn(f"{error.format_message()} See 'pal --help'.")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
