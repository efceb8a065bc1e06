"""A small file in the schema of `summarize_from_feedback/comparisons`, to try the whole path without the data."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

__all__ = ["POLICIES", "write"]

POLICIES = ("sup4", "sup4_6b", "sup2", "sup4_ppo_rm4", "ref")
_TOPICS = ("rent", "garden", "exam", "ferry", "recipe", "bicycle", "concert", "neighbour", "internship", "parrot")
_GOOD = ("specific", "accurate", "because", "deadline", "asks")
_BAD = ("thing", "stuff", "whatever", "somehow", "basically")
_MORE = ("moreover", "besides", "furthermore", "additionally")
_BUSY, _OTHERS = 10, 6  # workers of the training fold with many answers, workers with few


def write(folder: Path, answers: int = 60, seed: int = 0) -> None:
    """Writes train.jsonl and validation.jsonl.

    A summary is better for its good words and worse for its bad ones, to everyone, with noise; its length says nothing.

    Args:
        folder: must exist.
        answers: of each busy worker in the validation fold, and half of those in the training fold.
        seed: of texts, policies and choices.
    """
    random = np.random.default_rng(seed)
    busy = [f"busy-{number}" for number in range(_BUSY)]
    others = [f"other-{number}" for number in range(_OTHERS)]
    folds = {
        "train": [(worker, 2 * answers + number) for number, worker in enumerate(busy)] + [(others[0], answers // 4)],
        "validation": [(worker, answers) for worker in busy + others],
    }
    for fold, workers in folds.items():
        rows = [_row(random, worker, fold) for worker, count in workers for _ in range(count)]
        # news articles have no post; some answers have no worker
        rows += [{**_row(random, busy[0], fold), "info": {"id": "news", "post": None, "article": "news"}}]
        rows += [{**_row(random, busy[0], fold), "worker": None}]
        pl.DataFrame(rows).write_ndjson(folder / f"{fold}.jsonl")


def _row(random: np.random.Generator, worker: str, fold: str) -> dict[str, Any]:
    topic = str(random.choice(_TOPICS))
    texts, quality = zip(*(_summary(random, topic) for _ in range(2)), strict=True)
    half = len(POLICIES) - 2  # half of the pairs by supervised models alone
    policies = random.choice(POLICIES[:half] if random.random() < 0.5 else POLICIES, 2)
    left = random.random() < 1 / (1 + np.exp(1.5 * (quality[1] - quality[0])))
    return {
        "info": {"id": f"t3_{random.integers(1 << 30):x}", "post": f"Long story about my {topic}.", "article": None},
        "summaries": [{"text": t, "policy": str(p), "note": None} for t, p in zip(texts, policies, strict=True)],
        "choice": 0 if left else 1,
        "worker": worker,
        "batch": "batch1",
        "split": "train" if fold == "train" else "valid1",
        "extra": {"confidence": None},
    }


def _summary(random: np.random.Generator, topic: str) -> tuple[str, float]:
    good, bad = random.choice(_GOOD, random.integers(0, 4)), random.choice(_BAD, random.integers(0, 4))
    more = random.choice(_MORE, random.integers(0, 7))
    words = random.permutation([topic, *good, *bad, *more])
    return " ".join(words), float(len(good) - len(bad))
