"""Figure 4: the paper's claims beside what was measured, and bounds that would catch a broken method."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pal.paper._experiment import Check, Row

__all__ = ["checks", "gain", "mean", "select", "shown", "table"]


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def mean(rows: Iterable[Row], name: str = "accuracy") -> float:
    """The mean over rows; nan where there is none."""
    values = [row[name] for row in rows]
    return float(np.mean(values)) if values else float("nan")


def gain(rows: list[Row], k_true: int, **wanted: Any) -> float:
    """Accuracy of K = K* less that of K = 1, over the same data sets."""
    return gain_of(rows, k_true, k_true=k_true, **wanted)


def gain_of(rows: list[Row], k: int, **wanted: Any) -> float:
    """Accuracy of K less that of K = 1, over the same data sets."""
    some = select(rows, what="seen", **wanted)
    return mean(select(some, k=k)) - mean(select(some, k=1))


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


@dataclass(frozen=True)
class Shown:
    """Which rows stand for the paper's: K* of the comparison with the paper's recipe, and of panel (c)."""

    middle: int
    k_of_c: int


def shown(rows: list[Row]) -> Shown:
    """What the rows there are can show."""
    recipe = select(rows, what="seen", recipe="paper")
    ours = select(rows, what="seen", recipe="ours")
    count = {k: len({row["per_user"] for row in select(ours, k_true=k)}) for k in {row["k_true"] for row in ours}}
    return Shown(recipe[0]["k_true"], max(count, key=lambda k: (count[k], k)))


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """A row a claim of the paper."""
    claims = ("panel", "claim", "paper", "ours", "verdict")
    parts = (_table_a(rows), _table_b(rows), _table_c(rows), _table_d(rows))
    return [dict(zip(claims, line, strict=True)) for part in parts for line in part]


Line = tuple[str, str, str, str, str]


def _table_a(rows: list[Row]) -> Iterator[Line]:
    for kind in sorted({row["kind"] for row in select(rows, what="points")}):
        some = select(rows, what="points", kind=kind)
        off = mean(some, "off")
        yield (
            "a",
            f"learned ideal points align with the true ones ({kind}, d = 2, K = {some[0]['k']})",
            "a picture",
            f"off by {_percent(off)} of their size (median), accuracy {_percent(mean(some))}",
            "holds" if off < 0.2 else "does not hold",
        )


def _table_b(rows: list[Row]) -> Iterator[Line]:
    hundred, middle = select(rows, what="seen", per_user=100), shown(rows).middle
    recipe = gain(hundred, middle, dim=16, kind="mixture", recipe="paper")
    best = gain(hundred, middle, dim=16, kind="mixture", recipe="ours")
    yield (
        "b",
        f"several prototypes gain on one (mixture, d = 16, K* = {middle}, 100 answers a user)",
        "+7 points",
        f"{_points(best)}; {_points(recipe)} with the paper's recipe",
        "holds; ours gains more: it is trained to the end, the recipe with a step an epoch is not"
        if best > recipe > 0
        else "does not hold",
    )
    for kind, dim in sorted({(row["kind"], row["dim"]) for row in hundred}):
        some = select(hundred, kind=kind, dim=dim, recipe="ours")
        gains = {k: gain(some, k) for k in sorted({row["k_true"] for row in some})}
        yield (
            "b",
            f"gain of K = K* on K = 1 ({kind}, d = {dim})",
            "not given",
            ", ".join(f"K* = {k}: {_points(value)}" for k, value in gains.items()),
            "holds" if min(gains.values()) > 0 else "does not hold",
        )


def _table_c(rows: list[Row]) -> Iterator[Line]:
    seen, facts = select(rows, what="seen", kind="mixture"), shown(rows)
    least = min(row["per_user"] for row in seen)
    few = select(seen, per_user=least, dim=16)
    theirs = {
        k: gain_of(few, k, k_true=facts.middle, recipe="paper") for k in sorted({row["k"] for row in few}) if k > 1
    }
    theirs = {k: value for k, value in theirs.items() if value == value}
    ours = gain(few, facts.k_of_c, recipe="ours")
    worst = min(theirs, key=lambda k: theirs[k])
    yield (
        "c",
        f"with few answers a user ({least}) several prototypes do worse than one (mixture, d = 16)",
        "in words",
        f"{_points(ours)} at K = K* = {facts.k_of_c}; with the paper's recipe and K* = {facts.middle} "
        + ", ".join(f"{_points(value)} at K = {k}" for k, value in theirs.items()),
        f"only with the paper's recipe (K = {worst}): a prior on user weights and larger steps end it"
        if theirs[worst] < 0 < ours
        else "not seen, neither with ours nor with the paper's recipe"
        if ours > 0
        else "holds",
    )
    for dim in sorted({row["dim"] for row in seen}):
        curve = select(seen, dim=dim, k=facts.k_of_c, k_true=facts.k_of_c, recipe="ours")
        means = {n: mean(select(curve, per_user=n)) for n in sorted({row["per_user"] for row in curve})}
        yield (
            "c",
            f"accuracy rises with the answers a user gives (mixture, d = {dim}, K = K* = {facts.k_of_c})",
            "rises",
            ", ".join(f"{n}: {_percent(value)}" for n, value in means.items()),
            "holds" if means[max(means)] > means[min(means)] else "does not hold",
        )


def _table_d(rows: list[Row]) -> Iterator[Line]:
    own = [row for row in select(rows, what="unseen") if row["k"] == row["k_true"]]
    for kind, dim, n in sorted({(row["kind"], row["dim"], row["per_user"]) for row in own}):
        some = select(own, kind=kind, dim=dim, per_user=n)
        curve = np.mean([row["unseen_accuracy"] for row in some], axis=0)
        answers = some[0]["answers"]
        enough = [a for a, value in zip(answers, curve, strict=True) if value > mean(some) - 0.01]
        yield (
            "d",
            f"unseen users are predicted as well as seen ones ({kind}, d = {dim}, {n} answers a seen user)",
            "similar",
            ", ".join(f"{a}: {_percent(v)}" for a, v in zip(answers, curve, strict=True) if a in (0, 5, 20, 100))
            + f"; seen {_percent(mean(some))}",
            f"holds: within a point after {enough[0]} answers" if enough else "does not hold: not within a point",
        )


def checks(rows: list[Row]) -> list[Check]:
    """Bounds that a broken trainer, solver or simulation would not keep."""
    found = []
    seen = select(rows, what="seen", recipe="ours")
    for kind, dim in sorted({(row["kind"], row["dim"]) for row in seen}):
        least = 0.12 if kind == "partition" else 0.06
        for k in sorted({row["k_true"] for row in seen if row["k_true"] > 2}):
            value = gain([row for row in seen if row["per_user"] == 100], k, kind=kind, dim=dim)
            found.append(Check(f"K = K* = {k} gains on K = 1 ({kind}, d = {dim})", value, f"> {least}", value > least))
    value = mean(row for row in seen if row["per_user"] == 100 and row["k"] == row["k_true"])
    found.append(Check("accuracy where K = K*, 100 answers a user", value, "> 0.95", value > 0.95))
    for row in select(rows, what="points"):
        value = row["off"]
        found.append(Check(f"ideal points are off by ({row['kind']}, seed {row['seed']})", value, "< 0.2", value < 0.2))
    some = [row for row in select(rows, what="unseen") if row["k"] == row["k_true"]]
    value = float(np.mean([row["unseen_accuracy"][-1] - row["accuracy"] for row in some]))
    found.append(Check("unseen users after 100 answers less seen ones", value, "> -0.03", value > -0.03))
    value = float(np.mean([row["unseen_accuracy"][-1] - row["unseen_accuracy"][0] for row in some]))
    found.append(Check("100 answers of an unseen user gain on none", value, "> 0.05", value > 0.05))
    return found
