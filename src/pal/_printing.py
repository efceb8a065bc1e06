"""What the `pal` command prints: tables and sentences on stdout, warnings and errors on stderr."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from pal.saving import plain_values

__all__ = [
    "plain",
    "print_choice",
    "print_comparison",
    "print_experiments",
    "print_fit",
    "print_json",
    "print_metrics",
    "print_shots",
    "print_table",
    "say",
    "warn",
]


def print_fit(record: dict[str, Any]) -> None:
    """What a fit came to: data, PAL beside the baselines, new people, the verdict."""
    data = record["data"]
    say(
        f"{data['source']}: {data['n_comparisons']} answers of {data['n_users']} people"
        f" ({data['n_unseen_users']} of them kept apart as new)."
    )
    print_metrics(record["models"], "test answers of people seen in training")
    if record["shots"]:
        print_shots(record["shots"])
    say(record["verdict"])


def print_metrics(models: dict[str, dict[str, Any]], title: str) -> None:
    """A row of measures for each model."""
    table = Table("model", "accuracy", "by user", "balanced", "worst tenth", "log-loss", "ECE", title=title)
    for name, row in models.items():
        low, high = row["interval"].get("accuracy_by_user", (None, None))
        by_user = number(row["accuracy_by_user"]) + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
        rest = [number(row[key]) for key in ("balanced_accuracy", "worst_tenth", "log_loss", "ece")]
        table.add_row(name, number(row["accuracy"]), by_user, *rest)
    print_table(table)


def print_shots(rows: Iterable[dict[str, Any]]) -> None:
    """A row for each number of answers that new people gave."""
    rows = list(rows)
    table = Table("answers given", "accuracy by user", "log-loss", title=f"{rows[0]['n_users']} new people")
    for row in rows:
        low, high = number(row["accuracy_by_user_low"]), number(row["accuracy_by_user_high"])
        table.add_row(str(row["shots"]), f"{number(row['accuracy_by_user'])} [{low}, {high}]", number(row["log_loss"]))
    print_table(table)


def print_comparison(rows: list[dict[str, Any]], seeds: int, reference: str) -> None:
    """A row a model of `pal.baselines.compare`."""
    shots = [key for key in rows[0] if key.startswith("shots_")]
    heads = ("worst tenth", "log-loss", "ECE", *(f"{key[6:]} shots" for key in shots), "seconds")
    table = Table("model", "accuracy by user", f"{reference} is better by", *heads)
    for row in rows:
        low, high = row["interval"]
        much, least, most = row["difference"]
        table.add_row(
            row["model"],
            f"{number(row['accuracy_by_user'])} [{low:.3f}, {high:.3f}]",
            "" if row["model"] == reference else f"{much:+.3f} [{least:+.3f}, {most:+.3f}]",
            *(number(row[key]) for key in ("worst_tenth", "log_loss", "ece", *shots)),
            f"{row['seconds']:.1f}",
        )
    print_table(table)
    say(f"Means over {seeds} splits, test answers of people seen in training; shots: people not seen, by user.")
    if alone := [key[6:] for key in shots if all(row[key] is None for row in rows)]:
        say(f"No new person has answers left to be tested on after {', '.join(alone)} shots: use fewer.")


def print_choice(choice: Any) -> None:
    """A row a number of prototypes of `pal.select`, and the verdict."""
    table = Table("prototypes", "log-loss", "gain over one", "of it by own weights", "accuracy by user", "")
    for row in choice.table.iter_rows(named=True):
        gains = [f"{row[name]:+.4f} ± {row[f'{name}_se']:.4f}" for name in ("gain", "personal_gain")]
        gains = ["", ""] if row["n_prototypes"] == 1 else gains
        accuracy, mark = number(row["accuracy_by_user"]), "chosen" if row["chosen"] else ""
        table.add_row(str(row["n_prototypes"]), f"{row['log_loss']:.4f}", *gains, accuracy, mark)
    print_table(table)
    say(f"{choice.n} answers, each held out once. {choice.verdict}")


def print_experiments(records: Iterable[dict[str, Any]]) -> None:
    """The paper's numbers beside ours, an experiment a table, and the checks that failed."""
    for record in records:
        if "skipped" in record:
            say(f"{record['name']}: skipped: {record['skipped']}")
            continue
        columns = list(record["table"][0]) if record["table"] else []
        table = Table(*columns, title=f"{record['name']}: {record['what']}")
        for row in record["table"]:
            table.add_row(*(plain(str(row.get(column, ""))) for column in columns))
        print_table(table)
        say(f"{record['name']}: {record['seconds']:.0f} s, {record['peak_mib']} MiB, {', '.join(record['figures'])}")
        for check in record["checks"]:
            if not check["ok"]:
                warn(f"{record['name']}: {check['name']}: {check['seen']:.3f}, wanted {check['wanted']}")


def print_table(table: Table) -> None:
    """A table on stdout; in a file or a pipe it has room for all its columns."""
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def number(value: float | None) -> str:
    """Three decimals, or a dash where there was nothing to measure."""
    return "-" if value is None else f"{value:.3f}"


def plain(text: str) -> str:
    """Text that rich does not take for markup."""
    return text.replace("[", r"\[")


def say(text: str) -> None:
    """A sentence on stdout."""
    print(text)  # noqa: T201 - this is the command


def warn(text: str) -> None:
    """A line on stderr."""
    print(f"pal: {text}", file=sys.stderr)  # noqa: T201 - this is the command


def print_json(value: Any) -> None:
    """JSON alone on stdout; what could not be measured is null."""
    print(json.dumps(plain_values(value), ensure_ascii=False, allow_nan=False))  # noqa: T201 - this is the command
