"""A group of Ray Train workers that run `fit_shard` in step, started again as a whole when one of them dies."""

import json
from pathlib import Path
from typing import Any

from pal._distributed.cluster import plainly
from pal._distributed.training import Given, fit_shard, progress_file, write_result
from pal._progress import steps_watched
from pal.errors import InputError, PALError

__all__ = ["RESTARTS", "train_together"]

RESTARTS = 16  # of the group, before the fit is given up


def train_together(given: Given, workers: int, threads: int, folder: Path) -> None:
    """Runs the fit; `write_result` has written its result to the folder when this returns.

    Args:
        given: what every worker is told.
        workers: how many.
        threads: of each.
        folder: shared by all.

    Raises:
        PALError: what a worker raised, or that the group died too often.
    """
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    (folder / "error.json").unlink(missing_ok=True)
    gpu = given.config.device == "cuda"
    trainer = TorchTrainer(
        _run,
        train_loop_config={"given": given, "folder": str(folder), "threads": threads},
        # sums of tensors on the GPU and of small ones on the CPU
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=train.FailureConfig(max_failures=RESTARTS),
            logging_config=train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with plainly("fit"), steps_watched(progress_file(given), given.config.progress):
        trainer.fit()
    error = folder / "error.json"
    if error.is_file():
        said = json.loads(error.read_text())
        raise (InputError if said["input"] else PALError)(said["message"])


def _run(told: dict[str, Any]) -> None:
    """In a worker."""
    import torch
    from ray import train

    folder = Path(told["folder"])
    if (folder / "error.json").is_file() or (folder / "result.json").is_file():
        return  # said already, by a group that was then started again
    torch.set_num_threads(told["threads"])
    context = train.get_context()
    rank = context.get_world_rank()
    (folder / f"worker-{rank}.json").write_text(json.dumps(_where()))
    try:
        result = fit_shard(told["given"], rank, context.get_world_size())
    except PALError as error:  # it would be the same the next time
        fresh = folder / f"error.json.{rank}"
        fresh.write_text(json.dumps({"input": isinstance(error, InputError), "message": str(error)}))
        fresh.replace(folder / "error.json")
        raise
    if rank == 0:
        write_result(result, folder)


def _where() -> dict[str, Any]:
    import os
    import socket

    return {"host": socket.gethostname(), "pid": os.getpid()}
