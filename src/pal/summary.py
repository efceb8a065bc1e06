"""The record of a fit: what was measured, beside the baselines, in plain JSON values; and the verdict in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pal._opinions import opinions
from pal._plurality import LEVEL, p_in_words
from pal.comparisons import Parts
from pal.embeddings import EmbeddedComparisons
from pal.errors import InputError
from pal.evaluation import Predictor, evaluate, paired_difference, predict, shot_curve
from pal.model import RewardModel
from pal.saving import plain_values
from pal.selection import FitResult
from pal.users import rows_of

__all__ = ["SHOTS", "headline", "summarise", "verdict"]

SHOTS = (0, 1, 2, 5, 10, 20)
_FEW_TOLD, _HINT = 500, 0.3  # with fewer validation answers, a p-value below it says too little either way
FEW = 10  # people that a finding about some of them takes at least
_DRAWS = 2000

Array = npt.NDArray[Any]


def summarise(
    model: RewardModel,
    result: FitResult,
    parts: Parts[EmbeddedComparisons],
    baselines: Mapping[str, Predictor],
    *,
    source: str,
    seed: int,
    shots: Sequence[int] = SHOTS,
    command: str | None = None,
) -> dict[str, Any]:
    """Measures a fit, and says what came out.

    Args:
        model: the chosen model.
        result: how it was chosen.
        parts: the split it was fitted on; the test and unseen parts may be empty.
        baselines: by name; "btl" is the pooled one that differences in the verdict are against.
        source: what the data are called.
        seed: of the split and the fit.
        shots: answers given per unseen user; numbers that leave fewer than ten users to test on are dropped.
        command: the command line that made the model, where there is one.

    Returns:
        The record that `metrics.json` holds and `pal.report` draws: "data", "models", "difference", "selection",
        "shots", "shots_btl", "prototypes", "divisive", "agreed", "people", "training", "verdict"; also "kind" ("votes"
        where nearly all choose between the same two responses, else "responses"), "answers" (those two) and "command".
        What could not be measured is empty or None.
    """
    models: dict[str, Predictor] = {"pal": model, **baselines}
    tested = len(parts.test) > 0
    pooled = baselines.get("btl")
    record: dict[str, Any] = {
        "data": _data(parts, source, seed, model.config.encoder),
        "models": {name: evaluate(m, parts.test).to_dict() for name, m in models.items()} if tested else {},
        "difference": {name: _difference(model, m, parts.test) for name, m in baselines.items()} if tested else {},
        "selection": _selection(result, parts.test),
        "shots": _shots(model, parts.unseen, shots),
        "shots_btl": _shots(pooled, parts.unseen, shots) if pooled is not None else [],
        **opinions(model, parts.train),
        "people": _people(model, parts.test) if tested else {},
        "training": {**result.metrics, **asdict(model.config), "seed": seed},
        "command": command,
    }
    for k, prototype in enumerate(record["prototypes"]):
        prototype["gain"] = _gain_of_group(model, pooled, parts.test, k) if pooled is not None and tested else None
    values: dict[str, Any] = plain_values(record)
    values["verdict"] = verdict(values)  # so that what was not measured is None here, too
    return values


# -- data and measures ------------------------------------------------------------------------------------------------


def _data(parts: Parts[EmbeddedComparisons], source: str, seed: int, encoder: str | None) -> dict[str, Any]:
    names = ("train", "validation", "test", "unseen")
    tables = [getattr(parts, name).comparisons for name in names]

    def distinct(columns: list[tuple[pl.Series, list[Array]]]) -> int:
        used = [ids.gather(np.unique(np.concatenate(rows))) for ids, rows in columns if sum(map(len, rows))]
        return pl.concat([ids.alias("id") for ids in used]).n_unique() if used else 0

    people = pl.concat([pl.DataFrame({"id": t.user_ids, "n": t.user_counts()}) for t in tables])
    counts = people.group_by("id").agg(pl.col("n").sum()).filter(pl.col("n") > 0)["n"].to_numpy()
    with_prompts = [(t.prompts.ids, [t.prompt]) for t in tables if t.prompts is not None and t.prompt is not None]
    return {
        "source": source,
        "n_comparisons": sum(map(len, tables)),
        "n_users": len(counts),
        "n_unseen_users": parts.unseen.comparisons.n_users,
        "n_responses": distinct([(t.responses.ids, [t.left, t.right]) for t in tables]),
        "n_prompts": distinct(with_prompts),
        "n_ties": int(sum(np.count_nonzero(t.label == 0.5) for t in tables)),
        "answers_per_user": np.quantile(counts, [0, 0.25, 0.5, 0.75, 1]) if len(counts) else [],
        "split": dict(zip(names, map(len, tables), strict=True)),
        "encoder": encoder or "own vectors",
        "seed": seed,
    }


def _interval(difference: float, low: float, high: float) -> dict[str, float]:
    return {"difference": difference, "low": low, "high": high}


def _difference(model: Predictor, other: Predictor, test: EmbeddedComparisons) -> dict[str, float]:
    return _interval(*paired_difference(model, other, test, bootstrap=_DRAWS))


def _nearest(model: RewardModel, test: EmbeddedComparisons) -> Array:
    """(U,) the prototype nearest each user of the test table, -1 for users the model does not know."""
    rows = rows_of(test.comparisons.user_ids, model.user_ids)
    if not len(model.users):
        return rows
    return np.where(rows < 0, -1, model.users.weights.argmax(1).numpy()[rows])


def _gain_of_group(model: RewardModel, pooled: Predictor, test: EmbeddedComparisons, k: int) -> dict[str, float] | None:
    own = test.take(np.flatnonzero(_nearest(model, test)[test.comparisons.user] == k))
    people = np.unique(own.comparisons.user[own.comparisons.label != 0.5])
    return {**_difference(model, pooled, own), "n_users": len(people)} if len(people) else None


def _selection(result: FitResult, test: EmbeddedComparisons) -> list[dict[str, Any]]:
    rows = result.table.to_dicts()
    for row in rows:
        model = result.models.get(row["n_prototypes"])
        measured = evaluate(model, test, bootstrap=0) if model is not None and len(test) else None
        row["accuracy_by_user"] = None if measured is None else measured.accuracy_by_user
    return rows


def _shots(model: Predictor, unseen: EmbeddedComparisons, shots: Sequence[int]) -> list[dict[str, Any]]:
    counts = unseen.comparisons.user_counts()
    needed = min(FEW, int(np.count_nonzero(counts)))
    kept = [n for n in shots if needed and np.count_nonzero(counts > n) >= needed]
    try:
        return shot_curve(model, unseen, kept).to_dicts() if kept else []
    except InputError:  # a baseline that cannot learn new users has no curve
        return []


def _people(model: RewardModel, test: EmbeddedComparisons) -> dict[str, Any]:
    """How accuracy is spread over people; those without a decided answer are not counted."""
    table = test.comparisons
    p, decided = predict(model, test).astype(float), table.label != 0.5
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (table.label > 0.5))
    n = np.bincount(table.user[decided], minlength=len(table.user_ids))
    users = np.flatnonzero(n)
    if not len(users):
        return {}
    own = np.bincount(table.user[decided], weights=right[decided], minlength=len(n))[users] / n[users]
    size = max(1, math.ceil(len(users) / 10))
    worst = users[np.argsort(own, kind="stable")[:size]]
    counts, edges = np.histogram(own, bins=np.linspace(0, 1, 11))
    known, rows = model.users, rows_of(table.user_ids, model.user_ids)
    worst_rows, rows = rows[worst], rows[users]
    worst_rows, rows = worst_rows[worst_rows >= 0], rows[rows >= 0]
    # the same people, each answer right with the same chance: what luck alone makes of the lowest tenth
    draws = np.random.default_rng(0).binomial(n[users], own.mean(), size=(200, len(users))) / n[users]
    answers = known.n_comparisons.numpy().astype(float)
    return {
        "worst_tenth": np.sort(own)[:size].mean(),
        "worst_tenth_by_luck": np.sort(draws, axis=1)[:, :size].mean(),
        "n_users": len(users),
        "test_answers": np.median(n[users]),
        "mean_answers": answers[rows].mean() if len(rows) else None,
        "accuracy_quantiles": np.quantile(own, [0, 0.25, 0.5, 0.75, 1]),
        "accuracy_histogram": {"edges": edges, "counts": counts},
        "worst": {
            "n_users": size,
            "mean_answers": answers[worst_rows].mean() if len(worst_rows) else None,
            "mean_weights": known.weights.numpy()[worst_rows].mean(0) if len(worst_rows) else [],
        },
    }


# -- words ------------------------------------------------------------------------------------------------------------

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def percent(x: float) -> str:
    """0.848 -> "84.8%"."""
    return f"{100 * x:.1f}%"


def points(x: float, digits: int = 1) -> str:
    """0.012 -> "1.2 points", without a sign."""
    return f"{abs(100 * x):.{digits}f} points"


def span(row: Mapping[str, Any]) -> str:
    """The 95% interval of a difference: "10.9 to 15.2"; of one person there is none."""
    if row["low"] is None:
        return "one person"
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}".replace("-", "−")


def n_prototypes(record: Mapping[str, Any]) -> int:
    """K of a record, 0 where it does not say."""
    return int((record.get("training") or {}).get("n_prototypes") or len(record.get("prototypes") or []))


def headline(record: Mapping[str, Any]) -> str:
    """The first sentence of the verdict: whether personalisation helps."""
    k, tried = n_prototypes(record), [row["n_prototypes"] for row in record.get("selection") or []]
    models, gain = record.get("models") or {}, (record.get("difference") or {}).get("btl")
    if "pal" not in models:
        return "Nothing was measured on answers held out."
    if k == 1 and len(tried) > 1:
        told = ((record.get("data") or {}).get("split") or {}).get("validation")
        p = (record.get("training") or {}).get("p_value")
        if told is not None and told < _FEW_TOLD and p is not None and p < _HINT:
            return (
                f"One reward for all was kept, K = 1: {told} validation answers are too few to show that people "
                "differ. 'pal select' cross-validates, which shows more."
            )
        ours = models["pal"]
        if ours["accuracy_by_user"] is None:
            return "One reward for all was kept, K = 1: the answers held out are ties, which tell nothing of people."
        if ours.get("n_users") == 1:
            return "One reward for all was kept, K = 1: one person's answers do not tell whether people differ."
        return "One reward for all predicts these people as well: K = 1."
    if k == 1:
        return "One reward for all was fitted (K = 1); whether more prototypes would help was not tried."
    many = _NUMBERS[k] if k < len(_NUMBERS) else str(k)
    if gain is None:
        return f"{many} prototypes were fitted; no single reward for all was measured beside them."
    if gain["difference"] is None:
        return f"{many} prototypes were fitted; the answers held out are ties, which tell nothing of them."
    if gain["low"] is None:
        return f"{many} prototypes were fitted; one person's answers held out do not tell whether they help others."
    much = points(gain["difference"], 0 if abs(gain["difference"]) >= 0.0995 else 1)
    if gain["low"] > 0:
        p = (record.get("training") or {}).get("p_value")
        helps = "helps" if p is None or p <= LEVEL else "seems to help"
        better = f"{many.lower()} prototypes predict people {much} better than one reward for all"
        return f"Personalisation {helps}: {better}."
    if gain["high"] < 0:
        return f"Personalisation hurts: one reward for all predicts people {much} better."
    return "Personalisation does not clearly help: one reward for all predicts these people about as well."


def details(record: Mapping[str, Any]) -> str:
    """The rest of the verdict: how much, for whom it does not help, whether it could be chance, and what sides do."""
    return " ".join(filter(None, [_how_much(record), _chance(record), _side(record)]))


def _how_much(record: Mapping[str, Any]) -> str:
    models, gain = record.get("models") or {}, (record.get("difference") or {}).get("btl")
    ours, pooled = models.get("pal"), models.get("btl")
    if not ours or ours["accuracy_by_user"] is None:
        return ""
    right = f"Of a person's held-out answers {percent(ours['accuracy_by_user'])} are predicted right"
    if not pooled or gain is None or gain["difference"] is None or n_prototypes(record) == 1:
        low, high = (ours.get("interval") or {}).get("accuracy_by_user") or (None, None)
        if low is None or high is None:
            return f"{right}."
        return f"{right} (95% interval {percent(low)} to {percent(high)})."
    sign = "+" if gain["difference"] >= 0 else "−"
    interval = "" if gain["low"] is None else f" (95% interval {span(gain)})"
    beside = (
        f"{right}, {percent(pooled['accuracy_by_user'])} by one reward for all:"
        f" {sign}{points(gain['difference'])}{interval}."
    )
    return " ".join([beside, *_not_helped(record)])


def _not_helped(record: Mapping[str, Any]) -> list[str]:
    sentences = []
    models, differences = record["models"], record["difference"]
    better = [
        name for name, row in differences.items() if name != "btl" and row["high"] is not None and row["high"] < 0
    ]
    if better:
        best = max(better, key=lambda name: models[name]["accuracy_by_user"])
        sentences.append(f"But the baseline '{best}' predicts better: {percent(models[best]['accuracy_by_user'])}.")
    if (differences["btl"]["low"] or 0) > 0:
        rows = enumerate(record.get("prototypes") or [], 1)
        flat = [(k, p["gain"]) for k, p in rows if p.get("gain") and p["gain"]["n_users"] >= FEW]
        flat = [(k, gain) for k, gain in flat if gain["low"] <= 0]
        if flat:
            names = " or ".join(f"{k} ({span(gain)} points)" for k, gain in flat[:3])
            sentences.append(f"There is no sure gain for the people nearest prototype {names}.")
    ours, pooled = models["pal"]["worst_tenth"], models["btl"]["worst_tenth"]
    if ours is not None and pooled is not None:
        luck = (record.get("people") or {}).get("worst_tenth_by_luck")
        few = luck is not None and ours >= luck - 0.03
        why = ", about what luck leaves with so few test answers" if few else ""
        sentences.append(
            f"For the tenth of people it predicts worst it is right at {percent(ours)}{why};"
            f" one reward for all has its own worst tenth at {percent(pooled)}."
        )
    return sentences


def _chance(record: Mapping[str, Any]) -> str:
    """What the plurality tests say."""
    p = (record.get("training") or {}).get("p_value")
    ours = (record.get("models") or {}).get("pal") or {}
    if p is None or ours.get("accuracy_by_user") is None or ours.get("n_users") == 1:
        return ""
    said = p_in_words(p)
    if p > LEVEL:
        return f"Chance alone could make several prototypes look so good: {said}, plurality test."
    hardly = f"Chance alone would hardly make several prototypes look so good: {said}, plurality test."
    return hardly if n_prototypes(record) > 1 else ""


def _side(record: Mapping[str, Any]) -> str:
    """What side people favour, where they were found to."""
    bias = float((record.get("training") or {}).get("side_bias") or 0)
    if not bias:
        return ""
    side = "left" if bias > 0 else "right"
    return (
        f"Where both are as good the {side} one is preferred in {percent(1 / (1 + math.exp(-abs(bias))))} of answers."
    )


def verdict(record: Mapping[str, Any]) -> str:
    """A few plain sentences: whether personalisation helps these people, how much, and whom it does not."""
    return " ".join(filter(None, [headline(record), details(record)]))
