"""The Ray cluster: one that runs, one at an address, or a local one started for the call."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from pal._checks import whole
from pal.errors import InputError, MissingExtraError, PALError

__all__ = ["connected", "plainly"]

_STORE = 256 * 2**20  # bytes of shared memory: rows do not pass through it, only the names of pieces
_PATIENCE = 5.0  # seconds for a machine to answer


@contextmanager
def connected(workers: int, address: str | None = None) -> Iterator[Any]:
    """Yields `ray`, connected; a local cluster that was started here ends with the block.

    Args:
        workers: how many will work at once; a local cluster gets as many places.
        address: HOST:PORT of a running cluster, or "auto" for the one on this machine; None: the one this process is
            connected to, else a local one.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: nobody answers at the address; a number of workers below 1, or more than the cluster has places for.
    """
    whole("workers", workers)
    ray = _ray()
    if ray.is_initialized():
        _check_places(ray, workers)
        with redirect_stdout(sys.stderr):  # Ray reports dead workers on stdout, which is the caller's
            yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE}
        address = "local"  # not the cluster that RAY_ADDRESS names: that one is asked for by its address
    else:
        _check_reachable(address)
    with _quiet():
        try:
            ray.init(address=address, **options)
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own
            where = "locally" if address == "local" else f"at {address}"
            raise InputError(
                f"Ray cannot be reached {where} ({_in_short(error)}): start it with 'ray start --head', set "
                "RAY_AUTH_MODE=token if it asks for a token, or leave the address out for a local one"
            ) from None
    try:
        _check_places(ray, workers)
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        with _quiet():
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 is for machines that somebody types on
    with _quiet():
        try:
            import ray
            import ray.data
            import ray.train.torch
        except ImportError:
            raise MissingExtraError("work on more than one process", "ray") from None
        ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own deprecations and advice are not the caller's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_reachable(address: str) -> None:
    """Asks at once; Ray itself would try for half a minute."""
    if address in ("auto", "local") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"Ray address {address!r}: give HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nobody answers at {address} ({error}): start Ray there with 'ray start --head', or leave the address out "
            "for a local one"
        ) from None


def _check_places(ray: Any, workers: int) -> None:
    places = int(ray.cluster_resources().get("CPU", 0))
    if places < workers:
        raise InputError(f"{workers} workers were asked for, the Ray cluster has {places} CPUs: ask for no more")


@contextmanager
def plainly(what: str) -> Iterator[None]:
    """What PAL raised in a worker is raised here as it was; of anything else, which job failed and why."""
    try:
        with _quiet():
            yield
    except PALError:
        raise
    except Exception as error:  # Ray wraps what a worker raised in errors of its own, one in another
        found = _own(error)
        if found is not None:
            raise found from None
        raise PALError(f"{what} failed on its workers: {_in_short(error)}") from error


def _own(error: BaseException) -> PALError | None:
    """The error of PAL's inside Ray's."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, PALError):
            return (
                type(one)(*one.args) if type(one).__module__ == "pal.errors" else InputError(str(one).splitlines()[0])
            )
        inside = getattr(one, "worker_failures", None)
        waiting += [e for e in (*(inside.values() if inside else ()), one.__cause__, getattr(one, "cause", None)) if e]
    return None


def _in_short(error: BaseException) -> str:
    """What Ray says, without the way it took: of many lines the first and the last."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))[:400]
