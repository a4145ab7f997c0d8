"""The command line: each verb parses, calls, renders and returns an exit code. Heavy imports wait for the verb."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TextIO

import click

from edgeprune.commands.screens import Verbs
from edgeprune.errors import INTERRUPTED, EdgepruneError, unexpected
from edgeprune.host.interrupts import handlers

__all__ = ["cli", "main"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
EXIT_CODES = """\b
Exit codes:
  0  fine
  1  over budget
  2  wrong usage, option or recipe
  3  could not be done or cannot be measured
  4  an input file is missing or unreadable
  130  interrupted (Ctrl-C); 143 terminated (SIGTERM)"""

EPILOG = f"""{EXIT_CODES}

\b
Examples:
  edgeprune demo                      see it work on a small model, in three minutes
  edgeprune init                      a recipe and budgets for the models in this folder
  edgeprune run recipe.toml -o out    the whole job of that recipe
  edgeprune shrink model.keras --train train.npz --download 0.1x    name the target, get the model
  edgeprune prune model.keras --sparsity 0.8 -o small.keras         zeros in one shot, no data needed
  edgeprune prune model.keras --style channel --ratio 0.4 -o narrow.keras   fewer channels: smaller and faster
  edgeprune convert model.keras --to tflite --precision int8 --calibration train.npz -o model.tflite
  edgeprune verify model.tflite --against model.keras               does the file compute what the model computes
  edgeprune check model.tflite --download "350 kB"                  hold a file against a download budget"""


# Verb -> the module that holds it, in the order in which they are told. A verb is imported when it is called.
VERBS = {
    "demo": "edgeprune.commands.demo",
    "init": "edgeprune.commands.init",
    "shrink": "edgeprune.commands.shrink",
    "sweep": "edgeprune.commands.sweep",
    "advise": "edgeprune.commands.advise",
    "run": "edgeprune.commands.run",
    "report": "edgeprune.commands.report",
    "blame": "edgeprune.commands.blame",
    "prune": "edgeprune.commands.prune",
    "groups": "edgeprune.commands.groups",
    "sensitivity": "edgeprune.commands.sensitivity",
    "finetune": "edgeprune.commands.finetune",
    "convert": "edgeprune.commands.convert",
    "variant": "edgeprune.commands.variant",
    "verify": "edgeprune.commands.verify",
    "check": "edgeprune.commands.check",
    "history": "edgeprune.commands.history",
    "inspect": "edgeprune.commands.inspect",
    "metadata": "edgeprune.commands.metadata",
    "pack": "edgeprune.commands.pack",
    "compare": "edgeprune.commands.compare",
    "estimate": "edgeprune.commands.estimate",
    "devices": "edgeprune.commands.devices",
    "bench": "edgeprune.commands.bench",
    "calibrate": "edgeprune.commands.calibrate",
    "completion": "edgeprune.commands.completion",
}


class _Verbs(Verbs):
    """Finds its commands in VERBS."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = getattr(importlib.import_module(VERBS[name]), name)
        assert isinstance(command, click.Command)
        return command


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"edgeprune {version('edgeprune')}")
    if context.params["verbose"]:
        from edgeprune.host.children import confinement_here

        click.echo(f"sandbox of child processes: {confinement_here()}")
    context.exit()


@click.group(cls=_Verbs, context_settings=CONTEXT, epilog=EPILOG)
@click.option("--version", is_flag=True, expose_value=False, callback=_tell_version, help="Show the version and exit.")
@click.option("--verbose", is_flag=True, is_eager=True, help="With --version: also what confines child processes here.")
def cli(verbose: bool) -> None:
    """Make a Keras model smaller and prove what that gains, measured on the file that ships. 'edgeprune VERB --help'
    explains a verb."""
    if verbose:
        raise click.UsageError("--verbose goes with --version here; the verbs have options of that name")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. One line on stderr and the error's own exit code; never a traceback for what was foreseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    with handlers():
        if sys.stdout is None:  # `>&-`: the next file that is opened would get its number
            _fail("standard output is closed, so nothing could be told; send it to /dev/null if nobody reads it", 3)
        _main(arguments)


def _main(arguments: list[str] | None) -> None:
    try:
        code = cli.main(args=arguments, prog_name="edgeprune", standalone_mode=False)
    except EdgepruneError as error:
        _fail(str(error), error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):  # where the caller handles signals in a way of its own
        _fail("interrupted", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the whole help on stderr, as every click program answers
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except BrokenPipeError:
        # The reader of our stdout left (| head): not an error of ours.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        place = error.filename or ("standard output" if _is_stuck(sys.stdout) else "temporary files")
        _fail(f"{place}: {error.strerror or error}", 3)
    except MemoryError:
        _fail("out of memory; use fewer samples or a smaller batch", 3)
    except Exception as error:
        if os.environ.get("EDGEPRUNE_DEBUG"):
            raise
        _fail(unexpected(error), 3)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _is_stuck(stream: TextIO) -> bool:
    """Whether nothing can be written to a stream. What it still holds is dropped then: at the end of the program it
    would be tried again, and the exit code be another."""
    try:
        stream.flush()
        os.write(stream.fileno(), b"")
    except io.UnsupportedOperation:  # no file: a caller of ours took the place of the stream
        return False
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _fail(text: str, code: int) -> None:
    line = " ".join(text.split())
    try:
        click.echo(f"edgeprune: {line}", err=True)
    except OSError:  # nobody can be told
        _is_stuck(sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
