"""What the people nearest each prototype like and dislike, in the items' own words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from pal.comparisons import Items
from pal.embeddings import EmbeddedComparisons
from pal.model import RewardModel

__all__ = ["opinions"]

_MANY = 50_000  # items ranked at most; more are drawn at random
_LISTED, _APART, _DIVISIVE, _AGREED = 5, 3, 8, 6
_ENOUGH = 5  # answers that make a question worth showing, where enough questions have them
_LONG, _LONG_PROMPT = 220, 120  # characters

Array = npt.NDArray[Any]


def opinions(model: RewardModel, data: EmbeddedComparisons) -> dict[str, Any]:
    """Ranks the items of data by what the people nearest each prototype make of them.

    These are spoken for by their mean weights: a prototype alone is more extreme than anybody need be, and would hide
    what all agree on. Where all are asked to choose between the same two responses (votes), questions are ranked by the
    margin for one of them; else responses by the reward less the mean of its prompt.

    Returns:
        kind, answers, prototypes (share, n_users, likes, dislikes, apart), divisive, agreed; see `pal.summary`.
    """
    K, users = model.n_prototypes, model.users
    answers = _votes(model, data)
    nearest = users.weights.argmax(1).numpy() if len(users) else np.zeros(0, dtype=np.int64)
    points = _standpoints(model, nearest)
    if answers is not None:
        values, name = _questions(model, data, answers, points)
    else:
        values, name = _responses(model, data, points)
    prototypes = []
    for k in range(K):
        order = np.argsort(-values[:, k], kind="stable")
        others = np.delete(values, k, axis=1).mean(1) if K > 1 else values[:, k]
        apart = np.argsort(-np.abs(values[:, k] - others), kind="stable")[: _APART if K > 1 else 0]
        half = min(_LISTED, len(order) // 2)
        prototypes.append(
            {
                "share": float(model.population[k]),
                "n_users": int(np.count_nonzero(nearest == k)),
                "likes": [{**name(i), "reward": values[i, k]} for i in order[:half]],
                "dislikes": [{**name(i), "reward": values[i, k]} for i in order[::-1][:half]],
                "apart": [{**name(i), "reward": values[i, k], "others": others[i]} for i in apart],
            }
        )
    divisive, agreed = _spread(values)
    contents = None if answers is None else [_text(data.comparisons.responses, i) for i in answers]
    return {
        "kind": "responses" if answers is None else "votes",
        "answers": contents,
        "prototypes": prototypes,
        "divisive": [{**name(i), "values": values[i]} for i in divisive],
        "agreed": [{**name(i), "values": values[i]} for i in agreed],
    }


def _standpoints(model: RewardModel, nearest: Array) -> torch.Tensor:
    """(K, K): the mean weights of the people nearest each prototype; itself, where nobody is or w is no mixture."""
    points = torch.eye(model.n_prototypes)
    for k in np.unique(nearest) if model.prototypes.linear else ():
        points[k] = model.users.weights[torch.from_numpy(nearest == k)].mean(0)
    return points


def _spread(values: Array) -> tuple[Array, Array]:
    """Rows on which they differ most, and rows on which they differ least among those all take strongly."""
    if values.shape[1] < 2 or not len(values):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    spread = values.max(1) - values.min(1)
    divisive = np.argsort(-spread, kind="stable")[:_DIVISIVE]
    mean, same_side = np.abs(values.mean(1)), (values > 0).all(1) | (values < 0).all(1)
    strong = np.flatnonzero(same_side & (mean >= np.quantile(mean, 0.75)) & (spread < np.median(spread)))
    return divisive, strong[np.argsort(spread[strong], kind="stable")][:_AGREED]


def _votes(model: RewardModel, data: EmbeddedComparisons) -> tuple[int, int] | None:
    """The two responses that nearly all comparisons are between, or None where they vary."""
    table = data.comparisons
    if table.prompt is None or not model.config.prompt_dim or not len(table):
        return None
    pairs = np.stack([np.minimum(table.left, table.right), np.maximum(table.left, table.right)], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    low, high = (int(i) for i in kinds[counts.argmax()])
    if counts.max() < 0.9 * len(table) or len(np.unique(table.prompt)) < 3:
        return None
    if table.sided:
        as_stands = np.count_nonzero(table.left == low) >= np.count_nonzero(table.left == high)
        return (low, high) if as_stands else (high, low)
    # chosen and rejected say nothing of an order: the alphabet does
    return (low, high) if _text(table.responses, low) <= _text(table.responses, high) else (high, low)


def _questions(
    model: RewardModel, data: EmbeddedComparisons, answers: tuple[int, int], points: torch.Tensor
) -> tuple[Array, Callable[[int], dict[str, Any]]]:
    """Margins (Q, K) for the first answer, and what a question is called."""
    table = data.comparisons
    prompt = table.prompt if table.prompt is not None else np.zeros(len(table), dtype=np.int32)
    asked = ((table.left == answers[0]) & (table.right == answers[1])) | (
        (table.left == answers[1]) & (table.right == answers[0])
    )
    prompts, first, counts = np.unique(prompt[asked], return_index=True, return_counts=True)
    rows = np.flatnonzero(asked)[first]
    if np.count_nonzero(counts >= _ENOUGH) >= 4 * _LISTED:
        rows, prompts = rows[counts >= _ENOUGH], prompts[counts >= _ENOUGH]
    one = data.take(rows)
    questions, question = model.questions(one)
    terms = model.terms(questions)
    K = model.n_prototypes
    place, prototype = question.repeat_interleave(K), torch.arange(K).repeat(len(question))
    with torch.no_grad():
        margins = model.prototypes.margin(terms, points, place, prototype).reshape(-1, K).numpy()
    flipped = one.comparisons.left == answers[1]
    margins = np.where(flipped[:, None], -margins, margins).astype(float)
    items = table.prompts
    return margins, lambda i: {"text": "" if items is None else shorten(_text(items, int(prompts[i])), _LONG)}


def _responses(
    model: RewardModel, data: EmbeddedComparisons, points: torch.Tensor
) -> tuple[Array, Callable[[int], dict[str, Any]]]:
    """Rewards (I, K) less the mean of the prompt, and what an item (a response to a prompt) is called."""
    table = data.comparisons
    prompt = table.prompt if table.prompt is not None else np.zeros(len(table), dtype=np.int32)
    keys = pl.DataFrame(
        {"prompt": np.concatenate([prompt, prompt]), "response": np.concatenate([table.left, table.right])}
    ).unique(maintain_order=True)
    if len(keys) > _MANY:
        keys = keys.sample(_MANY, seed=0)
    group, response = keys["prompt"].to_numpy(), keys["response"].to_numpy()
    pieces = []
    for low in range(0, len(keys), 8192):
        x = torch.from_numpy(np.array(data.responses[response[low : low + 8192]], dtype=np.float32))
        c = None
        if model.config.prompt_dim and data.prompts is not None:
            c = torch.from_numpy(np.array(data.prompts[group[low : low + 8192]], dtype=np.float32))
        pieces.append((model.prototype_rewards(c, x) @ points.T).numpy())
    rewards = np.concatenate(pieces).astype(float) if pieces else np.zeros((0, model.n_prototypes))
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(place, weights=column) for column in rewards.T], axis=1) / counts[:, None]
    rewards = rewards - means[place]
    shown = table.prompts if model.config.prompt == "separate" or model.config.prompt == "concatenate" else None

    def name(i: int) -> dict[str, Any]:
        text = {"text": shorten(_text(table.responses, int(response[i])), _LONG)}
        return text if shown is None else {**text, "prompt": shorten(_text(shown, int(group[i])), _LONG_PROMPT)}

    return rewards, name


def _text(items: Items, row: int) -> str:
    """The item's text, its path, or its id."""
    if items.contents is not None and items.contents.dtype == pl.String:
        return str(items.contents[row])
    found = str(items.ids[row])
    return f"image {found[:12]}" if items.kind == "image" else found


def shorten(text: str, limit: int) -> str:
    """One line of at most `limit` characters, cut between words."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut).rstrip(" ,.;:") + "…"
