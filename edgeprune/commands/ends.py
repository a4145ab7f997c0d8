"""Options for the inputs and outputs that a file has: which, of what sizes, under what names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.maker.keras.ends import EndOptions

__all__ = ["EndWords", "end_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--outputs", metavar="NAME,NAME", help="Keep only these outputs.  [default: all]"),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="[NAME=]SIZES",
        help="Sizes of an input, batch first: 1,256,256,3 (or a batch: 8,256,256,3); 1,224..512,224..512,3 for a "
        "range; 1,224|384,224|384,3 for several. Repeatable.",
    ),
    click.option(
        "--explicit-states",
        is_flag=True,
        help="States of stateful recurrent layers become inputs LAYER_state_N and outputs LAYER_state_N_out: feed "
        "zeros first, then what the last call gave.",
    ),
    click.option(
        "--name",
        "names",
        multiple=True,
        metavar="OLD=NEW",
        help="Another name for an input or output in the file. Repeatable.",
    ),
)


def end_options(command: Command) -> Command:
    """The options of `EndWords`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class EndWords:
    """The options as they were typed."""

    outputs: str | None
    input_shapes: tuple[str, ...]
    explicit_states: bool
    names: tuple[str, ...]

    def options(self) -> EndOptions:
        """What they ask for. Raises UsageError for what cannot be understood."""
        from edgeprune.formats.input_sizes import InputSizes
        from edgeprune.maker.keras.ends import EndOptions

        shapes = [
            (name if found else "", sizes if found else name) for name, found, sizes in map(_parted, self.input_shapes)
        ]
        return EndOptions(
            outputs=_outputs(self.outputs),
            sizes={name: InputSizes.parse(sizes) for name, sizes in _once("--input-shape", shapes).items()},
            explicit_states=self.explicit_states,
            names=_once("--name", [_renaming(text) for text in self.names]),
        )


def _outputs(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise UsageError(f"--outputs {text!r}: names of outputs with commas between them, each once")
    return tuple(names)


def _parted(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def _renaming(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise UsageError(f"--name {text}: write OLD=NEW, as in dense_3=scores")
    return old, new


def _once(option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    told = dict(pairs)
    if len(told) != len(pairs):
        raise UsageError(f"{option}: one input or output is named twice")
    return told
