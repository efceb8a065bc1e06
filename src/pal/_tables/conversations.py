"""Conversations as TRL has them, lists of {"role", "content"}: one text of each, and what two share."""

import numpy as np
import polars as pl

__all__ = ["shared_messages", "texts_of"]


def texts_of(conversations: pl.Series) -> pl.Series:
    """One text a conversation: the content of a single message, "role: content" in paragraphs of several.

    Args:
        conversations: (n,) lists of structs with the strings `role` and `content`.

    Returns:
        (n,) strings; null where a message lacks its role or content.
    """
    role, content = pl.element().struct.field("role"), pl.element().struct.field("content")
    messages = pl.col("c")
    several = messages.list.eval(pl.format("{}: {}", role.cast(pl.String), content.cast(pl.String)))
    single = messages.list.eval(content.cast(pl.String)).list.first()
    broken = messages.list.eval(role.is_null() | content.is_null()).list.any()
    text = pl.when(messages.list.len() == 1).then(single).otherwise(several.list.join("\n\n"))
    return conversations.alias("c").to_frame().select(pl.when(~broken).then(text)).to_series()


def shared_messages(one: pl.Series, other: pl.Series) -> pl.Series:
    """How many leading messages two conversations share, at least one message of each left over, as in TRL.

    Args:
        one: (n,) lists of structs, none empty.
        other: Likewise.

    Returns:
        (n,) counts.
    """
    limit = np.minimum(one.list.len().to_numpy(), other.list.len().to_numpy()).astype(np.int64) - 1
    count = np.zeros(len(one), dtype=np.int64)
    going = np.flatnonzero(limit > 0)
    place = 0
    while len(going):
        pair = pl.DataFrame({"a": one.gather(going), "b": other.gather(going)})
        a, b = pl.col("a").list.get(place).struct, pl.col("b").list.get(place).struct
        equal = pair.select(
            (a.field("role") == b.field("role")) & (a.field("content") == b.field("content"))
        ).to_series()
        going = going[equal.fill_null(False).to_numpy()]
        place += 1
        count[going] = place
        going = going[limit[going] > place]
    return pl.Series(count)
