"""The parts of the report: each turns its part of the record into what the template shows, or None without it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal import _plots
from pal.summary import FEW, details, headline, n_prototypes, percent, points, span

Array = npt.NDArray[Any]
Record = Mapping[str, Any]

_NAMES = {
    "btl": "One reward for all",
    "btl-linear": "One linear reward for all",
    "per-user": "A model for each person alone",
    "majority": "What most people answer",
}
_NEAR = 0.8  # of the weight on one prototype: the person stands close to it


def weights_of(users: pl.DataFrame) -> Array:
    """(N, K) of the users' table."""
    if not users.height or "weights" not in users.columns:
        return np.zeros((0, 0))
    return np.array(users["weights"].to_list(), dtype=float).reshape(users.height, -1)


def words(record: Record) -> dict[str, str]:
    """The verdict."""
    return {"headline": headline(record), "details": details(record)}


def _number(x: Any, form: str = ".3f") -> str:
    return "–" if x is None else format(x, form).replace("-", "−")


def _percent(x: Any) -> str:
    return "–" if x is None else percent(x)


def _name(key: str, record: Record) -> str:
    if key != "pal":
        return _NAMES.get(key, key)
    k = n_prototypes(record)
    return f"PAL, {k} prototype{'s' * (k != 1)}" if k else "PAL"


def _figure(svg: str, finding: str, note: str = "") -> dict[str, Any]:
    from markupsafe import Markup

    return {"svg": Markup(svg), "finding": finding, "note": note}  # noqa: S704 - drawn by matplotlib, which escapes


def key_figures(record: Record, weights: Array) -> list[dict[str, str]]:
    """The few numbers to take away."""
    figures: list[dict[str, str]] = []

    def show(value: float | None, note: str) -> None:
        if value is not None:
            figures.append({"value": percent(value), "note": note})

    measured, shots = record.get("models") or {}, record.get("shots") or []
    if "pal" in measured:
        show(measured["pal"]["accuracy_by_user"], "of a person's held-out answers predicted right")
    if "btl" in measured and n_prototypes(record) > 1:
        show(measured["btl"]["accuracy_by_user"], "by one reward for all")
    if shots and n_prototypes(record) > 1:
        show(shots[-1]["accuracy_by_user"], f"for people it never met, after {shots[-1]['shots']} of their answers")
    show((record.get("people") or {}).get("worst_tenth"), "for the tenth of people it predicts worst")
    if not figures and len(weights):
        figures.append({"value": f"{len(weights):,}", "note": f"people over {weights.shape[1]} prototypes"})
    return figures


def models(record: Record) -> dict[str, Any] | None:
    """PAL beside the baselines: dots with whiskers, and all measures."""
    measured = {k: v for k, v in (record.get("models") or {}).items() if v["accuracy_by_user"] is not None}
    if not measured:
        return None
    order = sorted(measured, key=lambda key: -measured[key]["accuracy_by_user"])
    rows = []
    for key in order:
        m, difference = measured[key], (record.get("difference") or {}).get(key) or {}
        interval = m["interval"].get("accuracy_by_user")
        known = difference.get("difference") is not None
        rows.append(
            {
                "name": _name(key, record),
                "key": key,
                "ours": key == "pal",
                "accuracy": _percent(m["accuracy_by_user"]),
                "interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "–",
                "gain": f"{_number(100 * difference['difference'], '+.1f')} ({span(difference)})" if known else "–",
                "balanced": _percent(m["balanced_accuracy"]),
                "worst": _percent(m["worst_tenth"]),
                "log_loss": _number(m["log_loss"]),
                "brier": _number(m["brier"]),
                "ece": _number(m["ece"]),
            }
        )
    dots = [
        (
            _name(key, record),
            measured[key]["accuracy_by_user"],
            *(measured[key]["interval"].get("accuracy_by_user") or (None, None)),
            key == "pal",
        )
        for key in order
    ]
    others = [key for key in order if key != "pal"]
    finding = f"{_name(order[0], record)} predicts {_percent(measured[order[0]]['accuracy_by_user'])} of answers right"
    if "pal" in measured and others:
        ahead = measured["pal"]["accuracy_by_user"] - measured[others[0]]["accuracy_by_user"]
        lead = (record.get("difference") or {}).get(others[0]) or {}
        finding = f"PAL is {points(ahead)} {'above' if ahead >= 0 else 'below'} the best of the others"
        if lead.get("low") is not None and lead["low"] <= 0 <= lead["high"]:
            finding = "PAL and the best of the others are about equally accurate"
    n = next(iter(measured.values()))
    note = (
        f"{n['n'] - n['n_ties']:,} held-out answers of {n['n_users']:,} people whose other answers were learned from."
    )
    return {"figure": _figure(_plots.models(dots, finding), finding, note), "rows": rows, "n_ties": n["n_ties"]}


def selection(record: Record) -> dict[str, Any] | None:
    """Loss and accuracy against the number of prototypes."""
    rows = [row for row in record.get("selection") or [] if row["validation_log_loss"] is not None]
    if len(rows) < 2:
        return None
    chosen = next((row for row in rows if row.get("chosen")), None)
    k = chosen["n_prototypes"] if chosen else "?"
    one = next((row for row in rows if row["n_prototypes"] == 1), None)
    if k == 1 and any((row.get("gain") or 0) > 0 for row in rows):
        finding = "Chance alone could explain what more prototypes gain"
    elif k == 1:
        finding = "More prototypes do not predict held-out answers better"
    elif one is not None and chosen is not None:
        fall = one["validation_log_loss"] - chosen["validation_log_loss"]
        finding = f"{k} prototypes cut the log-loss of one by {fall:.3f}"
    else:
        finding = f"K\u00a0=\u00a0{k} was chosen on validation"
    loss = _plots.prototypes_tried(rows, "validation_log_loss", "validation log-loss (nats)", finding)
    note = "Lower is better. Bars: 95% interval of the gain over K\u00a0=\u00a01."
    several = [row for row in rows if row["n_prototypes"] > 1]
    if chosen in several and chosen is not min(several, key=lambda row: row["validation_log_loss"]):
        note += " Of K that are hardly told apart the middle is chosen."
    figures = [_figure(loss, finding, note)]
    measured = [row for row in rows if row.get("accuracy_by_user") is not None]
    if measured:
        top = max(measured, key=lambda row: row["accuracy_by_user"])
        same = chosen is not None and top["n_prototypes"] == k
        words = f"On the test answers K\u00a0=\u00a0{top['n_prototypes']} is the most accurate{', too' if same else ''}"
        if top["accuracy_by_user"] - min(row["accuracy_by_user"] for row in measured) < 0.005:
            words = "On the test answers all are about equally accurate"
        accuracy = _plots.prototypes_tried(rows, "accuracy_by_user", "answers predicted right (%)", words, 100)
        figures.append(_figure(accuracy, words, "Higher is better. The choice of K did not use these answers."))
    table = [
        {
            "k": row["n_prototypes"],
            "chosen": bool(row.get("chosen")),
            "loss": _number(row["validation_log_loss"]),
            "gain": "–" if row["n_prototypes"] == 1 else f"{_number(row['gain'])} ± {_number(1.96 * row['gain_se'])}",
            "accuracy": _percent(row.get("accuracy_by_user")),
            "seconds": _number(row.get("seconds"), ".1f"),
        }
        for row in rows
    ]
    return {"figures": figures, "rows": table}


def shots(record: Record) -> dict[str, Any] | None:
    """New people: accuracy against answers given."""
    rows = [row for row in record.get("shots") or [] if row["accuracy_by_user"] is not None]
    pooled = [row for row in record.get("shots_btl") or [] if row["accuracy_by_user"] is not None]
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    if last["accuracy_by_user"] - first["accuracy_by_user"] > 0.005:
        finding = (
            f"{last['shots']} answers of a new person take the accuracy from"
            f" {percent(first['accuracy_by_user'])} to {percent(last['accuracy_by_user'])}"
        )
    else:
        finding = "Answers of a new person do not make predictions for them better"
    table = [
        {
            "shots": row["shots"],
            "accuracy": _percent(row["accuracy_by_user"]),
            "interval": "–"
            if row.get("accuracy_by_user_low") is None
            else f"{percent(row['accuracy_by_user_low'])} to {percent(row['accuracy_by_user_high'])}",
            "pooled": _percent(next((r["accuracy_by_user"] for r in pooled if r["shots"] == row["shots"]), None)),
        }
        for row in rows
    ]
    note = (
        f"{last['n_users']:,} people kept out of the training, always tested on the same answers. Band: 95% interval."
    )
    return {
        "figure": _figure(_plots.shot_curve(rows, pooled if n_prototypes(record) != 1 else [], finding), finding, note),
        "rows": table,
    }


def standing(weights: Array) -> dict[str, Any] | None:
    """Where people stand between the prototypes."""
    if len(weights) < 2 or weights.shape[1] < 2:
        return None
    k = weights.shape[1]
    near = round(100 * float((weights.max(1) >= _NEAR).mean()))  # the two shares add up to 100%
    finding = (
        f"{near}% of people stand close to one prototype, {100 - near}% between them"
        if near >= 5
        else "Almost nobody is like one prototype alone: people stand between them"
    )
    shape = {
        2: "Each person has a weight on either prototype.",
        3: "A corner is a prototype; the nearer a person is, the more of its weight they have.",
    }.get(k, "The plane in which people's weights differ most; the numbered rings are the prototypes.")
    note = shape + ("" if k == 2 else " Larger dots are several people.")
    figures = [_figure(_plots.between(weights, finding), finding, note)]
    counts = np.bincount(weights.argmax(1), minlength=k)
    most, least = int(counts.argmax()), int(counts.argmin())
    said = (
        "is nearest to {:,} people, prototype {} to {:,}"
        if k == 2
        else "is nearest to most people ({:,}), {} to fewest ({:,})"
    )
    words = f"Prototype {most + 1} " + said.format(counts[most], least + 1, counts[least])
    if counts[most] == counts[least]:
        words = f"Each prototype is nearest to {counts[most]:,} people"
    figures.append(
        _figure(_plots.mixture(weights, words), words, "Each column is a person: their weights add up to 100%.")
    )
    return {"figures": figures, "near": _NEAR}


def opinions(record: Record, weights: Array) -> dict[str, Any] | None:
    """What prototypes like and dislike, in the items' own words; people (N, K) may have come since it was recorded."""
    prototypes = record.get("prototypes") or []
    if not prototypes:
        return None
    known = len(weights) and weights.shape[1] == len(prototypes)
    nearest = np.bincount(weights.argmax(1), minlength=len(prototypes)) if known else [p["n_users"] for p in prototypes]
    training, votes = record.get("training") or {}, record.get("kind") == "votes"
    slope, bias = float(training.get("slope") or 1), float(training.get("side_bias") or 0)
    first, second = record.get("answers") or ("left", "right")

    def chance(x: float) -> float:
        return float(1 / (1 + np.exp(-np.clip(slope * x + bias, -50, 50))))

    def value(x: float) -> str:
        return f"{chance(x):.0%}" if votes else _number(slope * x, "+.1f")

    def listed(items: Sequence[Record]) -> list[dict[str, Any]]:
        keys = ("reward", "others")
        return [
            {"text": i["text"], "prompt": i.get("prompt")} | {key: value(i[key]) for key in keys if key in i}
            for i in items
        ]

    every = [slope * x for part in ("divisive", "agreed") for item in record.get(part) or [] for x in item["values"]]
    low, high = min([*every, -1.0]), max([*every, 1.0])

    def place(x: float) -> float:
        return 100 * (chance(x) if votes else (slope * x - low) / (high - low))

    def strips(items: Sequence[Record]) -> list[dict[str, Any]]:
        rows = []
        for item in items:
            dots: list[dict[str, Any]] = []
            ends: list[float] = []
            for x, k in sorted((place(v), k) for k, v in enumerate(item["values"])):
                lane = next((i for i, end in enumerate(ends) if x - end >= 6.5), len(ends))
                ends[lane : lane + 1] = [x]
                dots.append({"k": k + 1, "x": round(x, 2), "lane": lane, "value": value(item["values"][k])})
            words = ", ".join(f"prototype {d['k']}: {d['value']}" for d in sorted(dots, key=lambda d: d["k"]))
            span_of = {"from": dots[0]["x"], "to": dots[-1]["x"]}
            rows.append(
                {"text": item["text"], "prompt": item.get("prompt"), "dots": dots, "lanes": len(ends), "words": words}
                | span_of
            )
        return rows

    cards = [
        {
            "k": k,
            "share": f"{p['share']:.0%}",
            "n_users": f"{nearest[k - 1]:,}",
            "gain": f"{_number(100 * p['gain']['difference'], '+.1f')} points ({span(p['gain'])})"
            if p.get("gain") and p["gain"]["n_users"] >= FEW and len(prototypes) > 1
            else None,
            "likes": listed(p["likes"]),
            "dislikes": listed(p["dislikes"]),
            "apart": listed(p.get("apart") or []),
        }
        for k, p in enumerate(prototypes, 1)
    ]
    return {
        "votes": votes,
        "first": first,
        "second": second,
        "cards": cards,
        "divisive": strips(record.get("divisive") or []),
        "agreed": strips(record.get("agreed") or []),
        "zero": round(place(-bias / slope if votes else 0.0), 2),
    }


def people(record: Record) -> dict[str, Any] | None:
    """Who is badly served."""
    told = record.get("people") or {}
    if not told.get("accuracy_histogram"):
        return None
    edges, counts = told["accuracy_histogram"]["edges"], told["accuracy_histogram"]["counts"]
    quantiles, worst = told["accuracy_quantiles"], told.get("worst") or {}
    mean = (record.get("models") or {}).get("pal", {}).get("accuracy_by_user")
    finding = (
        f"For half of the people at least {quantiles[2]:.0%} is right, for the worst tenth {told['worst_tenth']:.0%}"
    )
    words = []
    luck, tested, lowest = told.get("worst_tenth_by_luck"), told.get("test_answers"), told["worst_tenth"]
    if worst.get("n_users"):
        words.append(f"The worst tenth are {worst['n_users']:,} people; {percent(lowest)} of their answers are right.")
    if luck is not None and tested is not None:
        gap = "some people are truly served worse" if lowest < luck - 0.03 else "the gap may be no more than that"
        answers = f"{tested:.0f} test answer{'s' * (tested > 1)}"
        words.append(
            f"With {answers} a person, luck alone would put the lowest tenth at {percent(luck)},"
            f" even if all were predicted equally well: {gap}."
        )
    if worst.get("mean_answers") is not None and told.get("mean_answers") is not None:
        words.append(
            f"They gave {worst['mean_answers']:.0f} answers to learn from on average;"
            f" all people gave {told['mean_answers']:.0f}."
        )
    shares = [p["share"] for p in record.get("prototypes") or []]
    mix = worst.get("mean_weights") or []
    table = [
        {"k": k, "worst": f"{w:.0%}", "all": f"{s:.0%}"} for k, (w, s) in enumerate(zip(mix, shares, strict=False), 1)
    ]
    figure = _figure(_plots.histogram(edges, counts, mean, told["worst_tenth"], finding), finding)
    return {"figure": figure, "words": words, "mix": table if len(table) > 1 else []}


def data(record: Record) -> list[tuple[str, str]]:
    """The data: (label, value) rows."""
    data = record.get("data") or {}
    labels = {
        "source": "Source",
        "n_comparisons": "Answers",
        "n_users": "People",
        "n_unseen_users": "of them kept out, as new people",
        "n_prompts": "Prompts",
        "n_responses": "Responses",
        "n_ties": "Ties",
    }
    rows = [
        (label, f"{data[key]:,}" if isinstance(data[key], int) else str(data[key]))
        for key, label in labels.items()
        if data.get(key) not in (None, "")
    ]
    if data.get("answers_per_user"):
        least, low, middle, high, most = (f"{x:,.0f}" for x in data["answers_per_user"])
        rows.append(("Answers a person", f"median {middle}, half {low} to {high}, all {least} to {most}"))
    if data.get("split"):
        rows.append(("Split", ", ".join(f"{name} {n:,}" for name, n in data["split"].items())))
    return rows


def making(record: Record) -> dict[str, Any]:
    """How the model was made."""
    training = {k: v for k, v in (record.get("training") or {}).items() if v is not None and v is not False and v != ""}
    rows = [
        (
            key.removeprefix("n_").replace("_", " "),
            f"{v:,.0f}"
            if isinstance(v, float) and abs(v) >= 1000
            else f"{v:.4g}"
            if isinstance(v, float)
            else f"{v:,}"
            if isinstance(v, int) and not isinstance(v, bool)
            else str(v),
        )
        for key, v in training.items()
        if isinstance(v, str | int | float)
    ]
    return {"rows": rows, "command": record.get("command")}
