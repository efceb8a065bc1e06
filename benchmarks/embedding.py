"""Embedding texts with a store, interrupted and taken up again, beside calling the encoder directly.

Run `python benchmarks/embedding.py [--texts N]` (all-MiniLM-L6-v2): seconds, their ratio, and how many texts were
encoded more than once.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import machine
import pal
from pal.embeddings import resolve_encoder

WORDS = "the town should build more bus lines and a park by the river before it lowers taxes".split()  # noqa: SIM905


class Counting:
    """An encoder that remembers what it was given, and is interrupted once, like by Ctrl-C."""

    def __init__(self, inner: pal.embeddings.Encoder, stop_after: int) -> None:
        self.inner, self.stop_after, self.given = inner, stop_after, Counter[str]()
        self.name, self.revision, self.dim, self.kind = inner.name, inner.revision, inner.dim, inner.kind

    def encode(self, contents: Sequence[str | bytes], batch_size: int = 64) -> np.ndarray:
        if self.stop_after and self.given.total() >= self.stop_after:
            self.stop_after = 0
            raise KeyboardInterrupt
        self.given.update(str(content) for content in contents)
        return self.inner.encode(contents, batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    n = parser.parse_args().texts
    rng = np.random.default_rng(0)
    texts = [f"{' '.join(rng.choice(WORDS, rng.integers(5, 16)))} {i}" for i in range(n)]
    encoder = resolve_encoder("all-MiniLM-L6-v2")
    encoder.encode(texts[:64])  # loads the model
    ordered = sorted(texts, key=len, reverse=True)  # as the store gives them: batches of like length
    began = time.perf_counter()
    for low in range(0, n, 8192):
        encoder.encode(ordered[low : low + 8192])
    direct = time.perf_counter() - began
    half = n // 2
    table = pal.Comparisons.from_columns(
        user_id=["u"] * half, left=texts[:half], right=texts[half : 2 * half], label=[1] * half
    )
    counting = Counting(encoder, 2 * n // 5)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        try:
            pal.embed(table, counting, store=Path(folder) / "store")
        except KeyboardInterrupt:
            before = counting.given.total()
        pal.embed(table, counting, store=Path(folder) / "store")
        ours = time.perf_counter() - began
    twice = sum(count > 1 for count in counting.given.values())
    result = {"texts": n, "direct": direct, "ours": ours, "ratio": ours / direct, "before": before, "twice": twice}
    print(result)
    machine.write("embedding", result)


if __name__ == "__main__":
    main()
