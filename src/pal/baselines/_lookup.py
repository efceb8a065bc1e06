"""Which question is asked, by the ids of its prompt and responses: the same in tables embedded apart."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._checks import contents
from pal.baselines._features import Asked
from pal.embeddings import EmbeddedComparisons

__all__ = ["Lookup", "ordered_keys"]


def ordered_keys(data: EmbeddedComparisons) -> pl.DataFrame:
    """Each row's prompt, and its two responses in the order of their ids: the same whichever side they are on."""
    return ordered(keys_of(data))


def keys_of(data: EmbeddedComparisons) -> pl.DataFrame:
    """Each row's prompt, left and right by id, (n,) strings."""
    table = data.comparisons
    prompt = (
        pl.lit("")
        if table.prompts is None or table.prompt is None
        else pl.lit(table.prompts.ids.gather(table.prompt).cast(pl.String))
    )
    left, right = table.responses.ids.gather(table.left), table.responses.ids.gather(table.right)
    frame = pl.DataFrame({"left": left.cast(pl.String), "right": right.cast(pl.String)})
    return frame.with_columns(prompt=prompt)


def ordered(keys: pl.DataFrame) -> pl.DataFrame:
    """prompt, first and second: the responses in the order of their ids, whichever side they are on; swapped."""
    return keys.select(
        "prompt",
        first=pl.min_horizontal("left", "right"),
        second=pl.max_horizontal("left", "right"),
        swapped=pl.col("left") > pl.col("right"),
    )


class Lookup:
    """The questions of training, counted from 0.

    Attributes:
        table: prompt, first, second, code.
        one_pair: whether all of them compare the same two responses.
        has_prompts: whether they have prompts.
    """

    def __init__(self, train: EmbeddedComparisons) -> None:
        keys = ordered_keys(train).select("prompt", "first", "second")
        self.table = keys.unique(maintain_order=True).with_row_index("code")
        self.one_pair = self.table.select("first", "second").n_unique() == 1
        self.has_prompts = train.comparisons.prompts is not None
        self._train = train

    def __len__(self) -> int:
        return len(self.table)

    def find(self, keys: pl.DataFrame) -> tuple[Tensor, Tensor]:
        """Code (n,) of each key, and +1 or -1 (n,) where the sides are swapped.

        The code of an unknown key is their number where it compares the one pair of all, and one more elsewhere.
        """
        found = ordered(keys).join(self.table, on=["prompt", "first", "second"], how="left", maintain_order="left")
        pair = found.join(self.table[:1], on=["first", "second"], how="left", maintain_order="left")["code_right"]
        unknown = len(self) + 1 - (pair.is_not_null() & self.one_pair).cast(pl.Int64)
        code = pl.select(pl.coalesce(found["code"].cast(pl.Int64), unknown)).to_series().to_numpy()
        return torch.from_numpy(code.copy()), torch.from_numpy(np.where(found["swapped"].to_numpy(), -1.0, 1.0)).float()

    def codes(self, data: EmbeddedComparisons, asked: Asked) -> tuple[Tensor, Tensor]:
        """Likewise of the distinct questions of data, (Q,)."""
        _, first = np.unique(asked.question.numpy(), return_index=True)
        return self.find(keys_of(data.take(first)))

    @cached_property
    def _names(self) -> dict[bytes, str]:
        ids = self._train.comparisons.responses.ids.cast(pl.String).to_list()
        return {x.tobytes(): name for x, name in zip(self._train.responses.astype(np.float32), ids, strict=True)}

    @cached_property
    def _prompts(self) -> dict[bytes, str]:
        if self._train.prompts is None or self._train.comparisons.prompts is None:
            return {}
        ids = self._train.comparisons.prompts.ids.cast(pl.String).to_list()
        return {x.tobytes(): name for x, name in zip(self._train.prompts.astype(np.float32), ids, strict=True)}

    def named(self, prompt: Any, responses: Any, joint: bool) -> tuple[str, list[str]]:
        """Ids of a prompt, "" where training had none, and of responses: texts are ids, embeddings go by their values.

        Args:
            prompt: a text or its embedding; None.
            responses: n texts, or their embeddings (n, D).
            joint: whether a response's text begins with its prompt.
        """
        vector = isinstance(prompt, np.ndarray | Tensor)
        named = self.prompt_of(np.asarray(prompt)) if vector else "" if prompt is None else str(prompt)
        if isinstance(responses, np.ndarray | Tensor):
            names = [self.name_of(x) for x in np.asarray(responses)]
        else:
            shown = contents("responses", responses)
            names = [f"{prompt}\n\n{text}" if joint else str(text) for text in shown]
        return named if self.has_prompts else "", names

    def name_of(self, response: npt.NDArray[np.float32]) -> str:
        """The id of a response by its vector (D,); "" where training had none of it."""
        return self._names.get(np.ascontiguousarray(response, np.float32).tobytes(), "")

    def prompt_of(self, prompt: npt.NDArray[np.float32]) -> str:
        """Likewise of a prompt."""
        return self._prompts.get(np.ascontiguousarray(prompt, np.float32).tobytes(), "")
