"""Progress on stderr, where it is asked for and where that is a terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

__all__ = ["Report", "counted", "steps", "steps_told", "steps_watched"]

Report = Callable[[int, float], None]
EVERY = 0.5  # seconds between what is told to somebody else


@contextmanager
def counted(title: str, total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Gives a function to say how many more of ``total`` are done."""
    if not (show and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def steps(title: str, show: bool) -> Iterator[Report]:
    """Gives a function to report a step and the best validation loss to."""
    with _described(show) as describe:
        yield lambda step, loss: describe(_said(title, step, loss))


@contextmanager
def steps_told(path: Path, title: str) -> Iterator[Report]:
    """Likewise, for another process to show (`steps_watched`)."""
    due = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)

    def report(step: int, loss: float) -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + EVERY
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(_said(title, step, loss)))
        fresh.replace(path)

    yield report


@contextmanager
def steps_watched(path: Path, show: bool) -> Iterator[None]:
    """Shows what `steps_told` writes to a file, as long as the block lasts."""
    with _described(show) as describe:
        over = Event()

        def watch() -> None:
            while not over.wait(EVERY):
                if path.is_file():
                    describe(json.loads(path.read_text()))

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _said(title: str, step: int, loss: float) -> str:
    return f"{title}: step {step}, validation log-loss {loss:.4f}"


@contextmanager
def _described(show: bool) -> Iterator[Callable[[str], None]]:
    """A bar without an end, and a function that says what stands before it."""
    if not (show and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda said: progress.update(task, description=said)
