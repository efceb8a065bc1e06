"""An encoder that counts what it is asked, for the tests of embeddings and their store."""

import time

import numpy as np

from pal.comparisons import Comparisons


class Counting:
    """Vectors that tell which text they are of; remembers what it was asked."""

    kind = "text"

    def __init__(self, name="counting", revision="1", dim=4, log=None, pause=0.0, kind="text", scale=1.0):
        self.name, self.revision, self.dim, self.log, self.pause, self.kind = (
            name,
            revision,
            dim,
            log,
            pause,
            kind,
        )
        self.scale = scale
        self.calls, self.seen = 0, []

    def encode(self, contents, batch_size=64):
        self.calls += 1
        self.seen += list(contents)
        if self.log:
            with open(self.log, "a") as file:
                file.writelines(f"{text}\n" for text in contents)
        time.sleep(self.pause * len(contents))
        return vectors_of(contents, self.dim) * np.float32(self.scale)


def vectors_of(contents, dim=4):
    rows = [[len(c), sum(c if isinstance(c, bytes) else c.encode()) % 1009, *range(2, dim)] for c in contents]
    return np.array(rows, np.float32).reshape(len(rows), dim)


def comparisons_of(texts, prompt=None):
    left, right = list(texts), list(texts[1:]) + list(texts[:1])
    return Comparisons.from_columns(
        user_id=["u"] * len(left), left=left, right=right, label=[1] * len(left), prompt=prompt
    )


def one_line(error):
    return "\n" not in str(error.value) and str(error.value)
