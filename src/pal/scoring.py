"""Rewards of many responses for many users at once, from prototype rewards that were computed once.

A user's reward is a dot product of K numbers, so that serving needs no encoder and no map: `prototype_rewards` of the
catalogue are kept, and every user's ranking is a product of two thin matrices (paper, section 2).
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from pal._checks import path_of
from pal._tables.files import write_frame
from pal.errors import InputError
from pal.model import RewardModel, check_model
from pal.users import UserWeights

__all__ = ["rewards_of_users", "write_rewards"]

PART = 1 << 14  # users in a file: bounds the memory
WRITERS = 2  # one computes while another writes
SMALL = 1 << 18  # multiplications for which numpy wakes no threads: those spin, and slow the writers


def rewards_of_users(model: RewardModel, prototype_rewards: Tensor, out: Tensor | None = None) -> Tensor:
    """What every user of a model gives each of R responses.

    Args:
        model: of N users, its margins linear in their weights.
        prototype_rewards: (R, K), from `RewardModel.prototype_rewards`.
        out: (N, R) float32 to write into.

    Returns:
        (N, R) float32; a row is in the order of `model.user_ids`, and rewards are up to a constant per user and prompt.

    Raises:
        InputError: rewards of another number of prototypes, or a variant that is not linear in the weights.
    """
    columns = _columns(model, prototype_rewards)
    shape = (len(model.users), columns.shape[1])
    if out is not None and (not isinstance(out, Tensor) or out.shape != shape or out.dtype != torch.float32):
        found = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else f"{out!r:.60}"
        raise InputError(f"out must be a torch.float32 tensor {shape}, found {found}")
    out = torch.empty(shape) if out is None else out
    # numpy's product is 2.5 times as fast as torch's on matrices as thin as these
    np.matmul(_weights(model.users, 0, len(model.users)), columns, out=out.numpy())
    return out


def write_rewards(
    model: RewardModel, prototype_rewards: Tensor, folder: str | Path, response_ids: pl.Series | None = None
) -> list[Path]:
    """Writes `rewards_of_users` to a folder of parquet files, some thousand users in each; memory is bounded by two.

    Args:
        model: of N users.
        prototype_rewards: (R, K).
        folder: a new or empty folder.
        response_ids: (R,) written to responses.parquet; None: 0 to R - 1.

    Returns:
        The files part-00000.parquet, ..., with columns user_id and rewards (R values, in the order of the responses).

    Raises:
        InputError: as `rewards_of_users`; other than R ids; a folder that holds something.
    """
    columns = _columns(model, prototype_rewards)
    n, R = len(model.users), columns.shape[1]
    try:
        ids = pl.int_range(R, eager=True) if response_ids is None else pl.Series(response_ids)
    except (TypeError, ValueError):
        raise InputError(f"response_ids must be a list of {R} ids, found {response_ids!r:.60}") from None
    if len(ids) != R:
        raise InputError(f"{R} responses have {len(ids)} ids")
    if ids.n_unique() != R:
        raise InputError(f"response id {ids.filter(ids.is_duplicated())[0]!r} is given twice")
    if ids.null_count():
        raise InputError("one of response_ids is null: give every response an id")
    path = path_of("folder", folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose a folder")
    path.mkdir(parents=True, exist_ok=True)
    if held := next(path.iterdir(), None):
        raise InputError(f"{path}: it holds {held.name!r}: choose another folder")
    block = max(1, SMALL // max(1, columns.size))
    parts = [path / f"part-{number:05d}.parquet" for number in range(-(-n // PART))]

    def write(writer: int) -> None:
        buffer = np.empty((min(PART, n), R), dtype=np.float32)
        for number in range(writer, len(parts), WRITERS):
            low = number * PART
            weights = _weights(model.users, low, low + PART)
            rewards = buffer[: len(weights)]
            for start in range(0, len(weights), block):
                rows = slice(start, start + block)
                np.matmul(weights[rows], columns, out=rewards[rows])
            columns_of_file = [
                model.user_ids[low : low + PART].alias("user_id"),
                pl.Series("rewards", rewards, dtype=pl.Array(pl.Float32, R)),
            ]
            # as good as random to a compressor
            write_frame(pl.DataFrame(columns_of_file), parts[number], "uncompressed")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    write_frame(ids.alias("response_id").to_frame(), path / "responses.parquet")  # last: the others are whole
    return parts


def _columns(model: RewardModel, prototype_rewards: Tensor) -> npt.NDArray[np.float32]:
    check_model(model)
    if not model.prototypes.linear:
        raise InputError("this variant's rewards are not linear in the weights: use model.reward for each user")
    try:
        prototype_rewards = torch.as_tensor(prototype_rewards).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"prototype rewards must be (R, {model.n_prototypes}), found {prototype_rewards!r:.60}"
        ) from None
    if prototype_rewards.ndim != 2 or prototype_rewards.shape[1] != model.n_prototypes:
        raise InputError(f"prototype rewards must be (R, {model.n_prototypes}), found {tuple(prototype_rewards.shape)}")
    if not bool(torch.isfinite(prototype_rewards).all()):
        raise InputError("prototype rewards must be finite: one is NaN or infinity")
    return np.ascontiguousarray(prototype_rewards.float().numpy().T)


def _weights(users: UserWeights, low: int, high: int) -> npt.NDArray[np.float32]:
    weights: npt.NDArray[np.float32] = users.weights[low:high].numpy() * users.reliability[low:high, None].numpy()
    return weights
