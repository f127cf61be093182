"""The command line: one program, whose commands lie in the `cli_*` modules by what they are for."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from deployments import cli_ask, cli_keep, cli_letters, cli_operate, cli_run
from deployments.console import Console, ExitCode
from deployments.options import Json
from memory.errors import CoinswarmError
from memory.secrets import mask, print_masked

app = typer.Typer(
    name="coinswarm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (cli_run, cli_operate, cli_ask, cli_keep):
    app.add_typer(group.app)
app.add_typer(cli_letters.app, name="deadletters")


@app.callback(invoke_without_command=True)
def coinswarm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Versions of this software and of what it stands on, and end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The memory of multi-agent trading systems: record, consolidate every night, ask."""
    if version:
        from deployments.versions import show_versions, versions

        Console(as_json=as_json).result(versions(), show_versions)
        raise typer.Exit
    if as_json:
        raise typer.BadParameter("it comes after the command, or beside --version", param_hint="--json")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


# Typer brings a click of its own, or uses the one that is installed: only its subclass has a name that stays.
UsageError: Any = typer.BadParameter.__mro__[1]


def run_cli() -> None:
    """Run the command line; errors end in one line that says what to do, and an exit code that is not 0."""
    sys.excepthook = print_masked
    try:
        # Not standalone: typer would frame its errors, and end the process itself.
        code = app(standalone_mode=False)
    except UsageError as error:
        _end_with_usage(error)
    except CoinswarmError as error:
        print(mask(f"coinswarm: {error}"), file=sys.stderr)
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        if error.filename is None:
            # What is left in the buffer would be refused again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if error.errno == errno.ENOSPC:
                print(f"coinswarm: {error.strerror}. Make room where it writes to, then run again.", file=sys.stderr)
            sys.exit(ExitCode.FAILED)
        print(
            f"coinswarm: {error.filename}: {error.strerror}. Check the rights on it, or choose another place: "
            "the option that names it, or COINSWARM_HOME.",
            file=sys.stderr,
        )
        sys.exit(ExitCode.FAILED)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    if code == ExitCode.INTERRUPTED:
        print("coinswarm: interrupted; run the same command again to take up where it stopped.", file=sys.stderr)
    sys.exit(code)


def _end_with_usage(error: Any) -> NoReturn:
    """End with what is wrong about the command's words; without any, its help was asked for."""
    message = " ".join(error.format_message().split())
    if message:
        message = message if message.endswith(".") else f"{message}."
        print(
            f"coinswarm: {message} See '{error.ctx.command_path if error.ctx else 'coinswarm'} --help'.",
            file=sys.stderr,
        )
    sys.exit(ExitCode.USAGE)
