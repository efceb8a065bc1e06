"""The `pal` command: parse, call, print."""

import sys
import warnings
from typing import NoReturn

import typer

from pal._commands.learn import demo, fit
from pal._commands.study import compare, reproduce, select, simulate
from pal._commands.use import adapt, embed, evaluate, rank, report_command, score
from pal._printing import warn
from pal.errors import PALError

__all__ = ["app", "main"]

_INTERRUPTED = 130  # exit code; what typer, too, makes of an interrupt

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Personalised reward models from comparisons with user ids.",
)
app.command()(demo)
app.command()(fit)
app.command()(evaluate)
app.command()(adapt)
app.command()(rank)
app.command()(score)
app.command()(embed)
app.command()(compare)
app.command()(select)
app.command(name="report")(report_command)
app.command()(simulate)
app.command()(reproduce)


def main() -> NoReturn:
    """Runs the command; bad input gives one line on stderr and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {' '.join(str(message).split())}")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == _INTERRUPTED:
            warn("stopped")
    except PALError as error:
        warn(" ".join(str(error).split()))
        code = 2
    except typer.Exit as error:
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        warn("stopped")
        code = _INTERRUPTED
    except BrokenPipeError:
        code = 0
    except OSError as error:  # a folder that may not be written, a full disk
        warn(f"{error.filename or 'file'}: {error.strerror or error}")
        code = 2
    except Exception as error:  # typer's usage errors share no public base class
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message().replace("Value error, ", "")  # what typer's own validation puts before it
        command = getattr(getattr(error, "ctx", None), "command_path", "pal")
        warn(f"{said} See '{command} --help'.")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
