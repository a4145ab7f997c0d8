"""`edgeprune completion`: the script with which a shell completes verbs, options and files. Light imports only."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

__all__ = ["SHELLS", "completion"]

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_EDGEPRUNE_COMPLETE"


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> int:
    """Print the script with which SHELL (bash, zsh or fish) completes verbs, options, their words, and files.

    Without SHELL that of $SHELL. Save it where the shell looks for such scripts, and begin a new shell.

    \b
    Examples:
      edgeprune completion bash > ~/.local/share/bash-completion/completions/edgeprune
      edgeprune completion zsh > ~/.zfunc/_edgeprune
      edgeprune completion fish > ~/.config/fish/completions/edgeprune.fish
    """
    from click.shell_completion import get_completion_class

    from edgeprune.commands.cli import cli

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise UsageError(f"which shell? name one of {', '.join(SHELLS)} ($SHELL is {name or 'not set'})")
    click.echo(kind(cli, {}, "edgeprune", _VARIABLE).source())
    return 0
