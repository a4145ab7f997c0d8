"""What --help shows: one screen with the options in groups and examples at its end; --help-all explains everything."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["GROUPS", "LATER", "VERB_GROUPS", "Verb", "Verbs", "first_words", "whole_help"]

# Title -> options by their long name, in the order in which they are shown. What no group names stands in `_OTHERS`.
GROUPS: dict[str, tuple[str, ...]] = {
    "Goal": (
        "to",
        "precision",
        "style",
        "sparsity",
        "ratio",
        "macs",
        "download",
        "install",
        "growth",
        "parameters",
        "min-sparsity",
        "max-metric-drop",
        "max-latency-ms",
        "max-latency-growth",
        "min-eligible",
        "pattern",
        "max-float-ops",
        "channel-multiple",
        "sparse-kernels",
        "latency",
        "device",
        "target",
        "goal",
        "max-drop",
        "download-target",
        "time",
    ),
    "Options": (),
    "Samples": (
        "train",
        "calibration",
        "validation",
        "test",
        "data",
        "metric",
        "loss",
        "loss-weight",
        "samples",
        "scale",
        "offset",
        "on-bad-sample",
    ),
    "Output": (
        "output",
        "svg",
        "model-explorer",
        "html",
        "overwrite",
        "format",
        "json",
        "quiet",
        "verbose",
        "trust-code",
        "custom",
        "help",
    ),
}
_OTHERS = "Options"

# Verb -> options that its first screen only names; under "" those of every verb that has more than `_FEW`.
LATER: dict[str, tuple[str, ...]] = {
    "": (
        "loss",
        "loss-weight",
        "scale",
        "offset",
        "on-bad-sample",
        "seed",
        "codecs",
        "trust-code",
        "custom",
        "ray",
        "mlflow",
    ),
    "check": (
        "max-latency-growth",
        "min-eligible",
        "pattern",
        "max-float-ops",
        "channel-multiple",
        "sparse-kernels",
        "target",
        "fast",
        "commit",
        "arm",
    ),
    "convert": (
        "samples",
        "io-type",
        "keep-float",
        "std",
        "image-input",
        "outputs",
        "quiet",
        "per-tensor",
        "float-fallback",
        "scales",
        "rounding",
        "drop-names",
        "max-float-macs",
        "spend",
        "image-bias",
        "color",
        "softmax",
        "author",
        "license",
        "description",
        "version",
        "explicit-states",
        "name",
        "signature",
        "tolerance",
        "opset",
        "sparse-kernels",
        "bisect",
        "cut-preprocessing",
    ),
    "finetune": ("renew-norms", "thaw", "class-weight", "temperature", "features", "keep-from"),
    "prune": (
        "harmless",
        "width",
        "lossless",
        "scope",
        "permute",
        "include",
        "prune-depthwise",
        "keep-first",
        "keep-last",
        "through-norms",
        "compensate",
        "verify",
        "verbose",
        "quiet",
    ),
    "shrink": ("cache", "batch-size"),
    "verify": ("image-bias", "tolerance", "explicit-states", "softmax", "cut-preprocessing"),
}
_FEW = 12

# Title -> verb -> what it does. The first screen only names those of the last group, and those that no group has.
_MORE = "More"
VERB_GROUPS: dict[str, dict[str, str]] = {
    "Begin": {
        "demo": "See the whole job on a small model that comes along.",
        "init": "Look at a folder, and write a recipe and budgets for what is in it.",
        "advise": "What would make a model smaller or faster, before any training.",
        "run": "The whole job of a recipe: prune, train, quantize, export, measure.",
        "shrink": "Name the targets; a search finds the model and its recipe.",
        "sweep": "Try recipes out of a space, and keep those that no other beats.",
    },
    "Step by step": {
        "prune": "Zeros in the kernels, or fewer channels.",
        "finetune": "Train a model on; its zeros stay zero.",
        "convert": "Keras to TFLite, Core ML or ONNX, held against the model.",
        "verify": "Whether a file computes what its Keras model computes.",
    },
    "Look and compare": {
        "inspect": "A file layer by layer: shapes, zeros, MACs, bytes.",
        "compare": "What shrank from one file to another, layer by layer.",
        "report": "A finished run as one page of HTML with pictures.",
        "estimate": "How long a file takes on a phone, by a device profile.",
        "bench": "Time a file on this host, paired with another.",
    },
    "In CI": {
        "check": "Hold files and app bundles against budgets; without TensorFlow.",
        "history": "What each commit made of each file, and the layer that did it.",
    },
    _MORE: {
        "groups": "Layers that must lose the same channels.",
        "sensitivity": "What compressing each layer costs.",
        "blame": "What each step and layer of a finished run cost.",
        "variant": "Another precision or zeros in a .tflite file, without TensorFlow.",
        "metadata": "What a .tflite file tells the app about its inputs and outputs.",
        "pack": "A .tflite file written anew so that it is smaller to download.",
        "devices": "The device profiles and their errors.",
        "calibrate": "A profile of your own phone, from latencies that you measured.",
        "completion": "Completion of verbs and options for bash, zsh or fish.",
    },
}
_CODES = (
    "Exit codes: 0 fine, 1 over budget, 2 wrong usage, 3 could not be done or measured, 4 an input is missing or "
    "unreadable."
)
_WHOLE = "edgeprune.commands.screens.whole"
_WIDEST = 28  # of the names of options, which stand in a column
_WIDTH = 66  # of what stands beside them
_ENDS = (("; ", 1), (r" \(", 3), (": ", 3), (", ", 3))  # where a sentence may be cut, and how many words must be left
_EXAMPLES = "Examples:"
_MOST_EXAMPLES = 3


class Verb(click.Command):
    """A verb whose --help is one screen."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its options, --help and --help-all."""
        return [*super().get_params(ctx), _HELP_ALL]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, what the verb does, options by group, examples."""
        whole = ctx.meta.get(_WHOLE, False)
        text, examples = _parts(self.help or "")
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\n\n".join(text if whole else text[:1]))
        options = [
            option for option in super().get_params(ctx) if isinstance(option, click.Option) and not option.hidden
        ]
        later = [] if whole else _later(self.name or "", options)
        for title, members in _grouped([option for option in options if option not in later]):
            with formatter.section(title):
                formatter.write_dl([_row(option, ctx, whole=whole) for option in members], col_max=_WIDEST)
        if later:
            _write_also(formatter, [f"--{_name(option)}" for option in later])
        formatter.write("".join(f"{line}\n" for line in ("", *(examples if whole else _first(examples)))))


class Verbs(click.Group):
    """A group whose --help is one screen too: its verbs by what they are for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its options, --help and --help-all."""
        return [*super().get_params(ctx), _HELP_ALL]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, verbs by group, exit codes, examples."""
        whole = ctx.meta.get(_WHOLE, False)
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, verbs in self._by_group(ctx).items():
            if whole or title != _MORE:
                with formatter.section(title):
                    formatter.write_dl(list(verbs.items()))
            else:
                _write_also(formatter, [*verbs, "--version"])
        if whole:
            self.format_options(ctx, formatter)
        text, examples = _parts(self.epilog or "")
        formatter.write_paragraph()
        formatter.write_text("\n\n".join(text) if whole else _CODES)
        formatter.write("".join(f"{line}\n" for line in ("", *(examples if whole else _first(examples)))))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of the group itself; its verbs stand above them."""
        click.Command.format_options(self, ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs with what they do, from the table: none is imported while somebody waits at a prompt."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        verbs = [item for verbs in self._by_group(ctx).values() for item in verbs.items()]
        return [CompletionItem(name, help=text) for name, text in verbs if name.startswith(incomplete)]

    def _by_group(self, ctx: click.Context) -> dict[str, dict[str, str]]:
        """VERB_GROUPS as far as there are such verbs; the others, with their own words, in the last group."""
        names = self.list_commands(ctx)
        groups = {title: {n: t for n, t in verbs.items() if n in names} for title, verbs in VERB_GROUPS.items()}
        placed = {name for verbs in groups.values() for name in verbs}
        return {**groups, _MORE: {**groups[_MORE], **{n: self._short(ctx, n) for n in names if n not in placed}}}

    def _short(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None
        return command.get_short_help_str(limit=80)


def _write_also(formatter: click.HelpFormatter, names: Sequence[str]) -> None:
    """The line that names what this screen does not explain."""
    text = f"Also, explained by --help-all: {', '.join(names)}"
    formatter.write_paragraph()
    formatter.write("".join(f"{line}\n" for line in wrap(text, formatter.width, break_on_hyphens=False)))


def _tell_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(whole_help(ctx), color=ctx.color)
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_tell_all,
    help="Every option in full.",
)


def whole_help(ctx: click.Context) -> str:
    """The help of a verb with every option and word of it."""
    ctx.meta[_WHOLE] = True
    return ctx.command.get_help(ctx)


def _parts(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a docstring, and the lines of the one with examples."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    examples = [each for each in paragraphs if each.startswith(f"\b\n{_EXAMPLES}")]
    prose = [each for each in paragraphs if each not in examples]
    return prose, [line for each in examples for line in each.splitlines()[1:]]


def _first(examples: Sequence[str]) -> list[str]:
    """The first few commands; a line that goes on with another stays whole."""
    starts = [number for number, line in enumerate(examples) if line.startswith("  edgeprune ")]
    return list(examples[: starts[_MOST_EXAMPLES]] if len(starts) > _MOST_EXAMPLES else examples)


def _name(option: click.Option) -> str:
    """What an option is called: its first long name."""
    return next(word for word in option.opts if word.startswith("--")).lstrip("-")


def _later(verb: str, options: Sequence[click.Option]) -> list[click.Option]:
    """Those that the first screen only names; a required one never is."""
    if len(options) <= _FEW:
        return []
    names = {*LATER[""], *LATER.get(verb, ())}
    return [option for option in options if _name(option) in names and not option.required]


def _grouped(options: Sequence[click.Option]) -> Iterator[tuple[str, list[click.Option]]]:
    """Each group that has members, in the order of GROUPS; what none of them names keeps the order of the verb."""
    known = {name for names in GROUPS.values() for name in names}
    for title, names in GROUPS.items():
        members = sorted((o for o in options if _name(o) in names), key=lambda option: names.index(_name(option)))
        members += [option for option in options if title == _OTHERS and _name(option) not in known]
        if members:
            yield title, members


def _row(option: click.Option, ctx: click.Context, *, whole: bool) -> tuple[str, str]:
    record = option.get_help_record(ctx)
    assert record is not None
    if _name(option) == "help":
        return f"{record[0]}, --help-all", "This screen, or every option in full."
    if whole:
        return record
    spec, text = record
    if len(spec) > _WIDEST:
        spec = spec.replace(option.make_metavar(ctx), "WORD")
    bracket = re.search(r"  (\[[^\[\]]*\])$", text)
    head = first_words(option.help or "")
    keeps = bracket is not None and (option.required or len(head) + len(bracket[1]) <= _WIDTH)
    return spec, f"{head}  {bracket[1]}" if bracket is not None and keeps else head


def first_words(text: str) -> str:
    """What a help begins with: its first sentence, of a long one as much as fits beside the name."""
    sentence: str = re.split(r"(?<=\.)\s+(?=[A-Z\[])", text.strip())[0].rstrip(".")
    for mark, fewest in _ENDS if len(sentence) >= _WIDTH else ():
        cuts = [sentence[: end.start()] for end in re.finditer(mark, sentence)]
        fitting = [cut for cut in cuts if len(cut) < _WIDTH and len(cut.split()) >= fewest]
        if fitting:
            return f"{fitting[-1]}."
    return f"{sentence}."
