"""A progress bar on stderr, where asked for and where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["bar"]


@contextmanager
def bar(title: str, show: bool) -> Iterator[Callable[[int, float], None]]:
    """Gives a function to report a step and the best validation loss to."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield lambda _step, _loss: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda step, loss: progress.update(
            task, description=f"{title}: step {step}, validation log-loss {loss:.4f}"
        )
