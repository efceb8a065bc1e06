"""Commands that use one: evaluate, adapt, rank, score, report; and embed."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.table import Table

import pal
from pal import distributed
from pal._commands.options import (
    Data,
    Embeddings,
    EncoderName,
    Images,
    Json,
    MinVotes,
    ModelFolder,
    RayAddress,
    Source,
    Workers,
    default_encoder,
    numbers_of,
    several,
    user_id_of,
)
from pal._printing import (
    plain,
    print_json,
    print_metrics,
    print_shots,
    print_table,
    say,
    warn,
)
from pal._tables.files import write_frame
from pal.embeddings import EmbeddingStore, default_store, resolve_encoder
from pal.errors import InputError
from pal.model import RewardModel
from pal.report import write_report
from pal.users import UserWeights

__all__ = ["adapt", "embed", "evaluate", "rank", "report_command", "score"]


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
    wanted = numbers_of(shots)
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")
    model = RewardModel.from_pretrained(model_dir)
    embedded = Source.for_model(model, data, embeddings, images).load()
    rows = model.users.rows(embedded.comparisons.user_ids)[embedded.comparisons.user]
    seen, unseen = embedded.take(rows >= 0), embedded.take(rows < 0)
    metrics = pal.evaluate(model, seen) if len(seen) else None
    curve = None
    if len(unseen):
        try:
            curve = pal.shot_curve(model, unseen, shots=wanted, seeds=seeds)
        except InputError as error:
            if metrics is None:  # nothing could be measured
                raise
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
    added, replaced, gaps = 0, 0, list[float]()
    if data is not None:
        if several(workers, ray_address):
            on = _on(workers, ray_address, embeddings=embeddings, images=images)
            frame = _adapted(model_dir, data, target, on)
            users, gaps = UserWeights.from_frame(frame, model.n_prototypes), frame["gap"].to_list()
        else:
            found = pal.adapt(model, Source.for_model(model, data, embeddings, images).load())
            users, gaps = found, found.gap.tolist()
        before = len(model.users)
        model, added = model.with_users(users), len(users)
        replaced = added - (len(model.users) - before)
    remove = list(dict.fromkeys(remove or []))
    if remove:
        model = model.without_users([user_id_of(model, name, "nobody was taken out") for name in remove])
    model.save_pretrained(target)
    if as_json:
        counts = {"added": added, "replaced": replaced, "removed": len(remove), "n_users": len(model.users)}
        print_json({**counts, "gap": gaps})
    else:
        known = f" ({replaced} of them known before: their weights are now of these answers alone)" if replaced else ""
        say(f"{added} people added{known}, {len(remove)} taken out; {target} knows {len(model.users)}.")


def _adapted(model_dir: str, data: Path, target: Path, on: dict[str, Any]) -> pl.DataFrame:
    """The users of a table, from several workers."""
    parts = target.with_name(f".{target.name}.adapted")
    distributed.adapt(model_dir, data, parts, **on)
    frame = distributed.users_of(parts)
    shutil.rmtree(parts)
    return frame


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
    if model.config.encoder is None:
        raise InputError(
            f"{model_dir} was trained on own vectors, and cannot embed texts: 'pal score' takes a table of ids with "
            "--embeddings"
        )
    who = None if user is None else user_id_of(model, user)
    rewards = model.reward(who, prompt=prompt, responses=responses, store=True)
    order = sorted(range(len(responses)), key=lambda i: -float(rewards[i]))
    if as_json:
        print_json([{"response": responses[i], "reward": float(rewards[i])} for i in order])
        return
    table = Table("", "reward", "response")
    for place, i in enumerate(order, 1):
        table.add_row(str(place), f"{rewards[i]:+.3f}", plain(responses[i]))
    print_table(table)


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
    if out.resolve() == data.resolve():
        raise InputError(f"--out {out} is the table that is read: choose another file")
    if several(workers, ray_address):
        on = _on(workers, ray_address, embeddings=embeddings, images=images)
        rows = distributed.score(model_dir, data, out, **on)
        _scored(rows, out, as_json)
        return
    model = RewardModel.from_pretrained(model_dir)
    embedded = Source.for_model(model, data, embeddings, images).load()
    margin, probability = model.scores(embedded)
    frame = embedded.comparisons.to_frame().with_columns(
        margin=pl.Series(margin.numpy()), probability=pl.Series(probability.numpy())
    )
    write_frame(frame, out)
    _scored(len(frame), out, as_json)


def _on(workers: int, address: str | None, **options: Any) -> dict[str, Any]:
    """How several workers are asked."""
    return {"workers": workers, "address": address, "progress": True, **options}


def _scored(rows: int, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"rows": rows, "out": str(out)})
    else:
        say(f"{rows} rows in {out}.")


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
    if several(workers, ray_address):
        on = _on(workers, ray_address, prompt_mode=mode, images=images, dtype=dtype)
        store = distributed.embed(data, name, out, **on)
    else:
        comparisons = Source(data, images=images, min_votes=min_votes).comparisons()
        used = resolve_encoder(name)
        folder = out or default_store(used, dtype)
        pal.embed(comparisons, used, store=folder, prompt_mode=mode, dtype=dtype, progress=True)
        store = EmbeddingStore(folder)
    if as_json:
        print_json({"out": str(store.folder), "rows": len(store), "dimension": store.dimension})
    else:
        say(f"{len(store)} vectors of dimension {store.dimension} in {store.folder}.")


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
