"""The command line: each verb parses, calls, renders and returns an exit code. Heavy imports wait for the verb."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgeprune.checker_commands import bench, calibrate, check, compare, devices, estimate, inspect
from edgeprune.errors import INTERRUPTED, EdgepruneError
from edgeprune.interrupts import handlers
from edgeprune.options import PATH, common_options

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
  edgeprune run sample_models/fashion/recipe.toml -o out     the whole job: prune, fine-tune, INT8, export, measure
  edgeprune prune model.keras --sparsity 0.8 -o small.keras  zeros in one shot, no data needed
  edgeprune prune model.keras --style channel --ratio 0.4 -o narrow.keras      fewer channels: smaller and faster
  edgeprune convert model.keras --to tflite --precision int8 --calibration train.npz -o model.tflite
  edgeprune verify model.tflite --against model.keras        does the file compute what the model computes
  edgeprune check model.tflite --limit "350 kB"              hold a file against a download budget"""


@click.group(context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(package_name="edgeprune", message="edgeprune %(version)s")
def cli() -> None:
    """Make a Keras model smaller and prove what that gains: prune, fine-tune, quantize, convert to TFLite and Core ML,
    and see download size beside latency, each measured on the file that ships."""


@cli.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for models, ledger.json and report.md.")
@click.option("--dry-run", is_flag=True, help="Check recipe, model and data, print the plan, and stop.")
@common_options("overwrite", "json", "quiet", "trust", "custom")
def run(
    recipe: Path,
    output: Path | None,
    **options: Any,
) -> int:
    """Run the steps of RECIPE (TOML) and leave models, ledger.json and report.md in the output folder.

    Everything that can be checked is checked before any training. Exit code 1 when the recipe's budget is exceeded.

    Steps are prune (to a sparsity; with style = "channel" to a ratio of channels, or a share of the MACs, parameters or
    latency, estimated for a device), finetune and quantize. The README lists their keys.
    """
    from edgeprune.verbs import run_verb

    return run_verb(recipe, output, **options)


PRECISIONS = (
    *("float32", "float16", "dynamic", "int8", "int16x8", "palette2", "palette4", "palette6", "palette8"),
    *("sparse", "sparse-int8", "sparse-palette4", "sparse-palette6", "sparse-palette8"),
)
TOLERANCE = click.option(
    "--tolerance",
    type=float,
    help="Largest difference allowed, as a share of the output range.  [default: float32 0.001; float16 0.1 and an "
    "SQNR of 20 dB; others by SQNR: 0 dB for convert, 10 dB for verify]",
)
CHANNEL_ONLY = (
    *("ratio", "macs", "parameters", "latency", "device", "lossless", "importance", "round_to", "through_norms"),
    *("compensate", "verify", "train", "seed"),
)
MAGNITUDE_ONLY = ("sparsity", "prune_depthwise", "keep_first", "keep_last")


@cli.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The pruned model, a .keras file.")
@click.option(
    "--style",
    type=click.Choice(["magnitude", "channel"]),
    default="magnitude",
    show_default=True,
    help="Zeros in the kernels (a smaller download), or fewer channels (smaller and faster).",
)
@click.option("--sparsity", type=float, help="magnitude: fraction of weights to remove, for example 0.8.")
@click.option("--ratio", type=float, help="channel: fraction of channels to remove, for example 0.4.")
@click.option("--macs", type=float, help="channel: share of the MACs to keep, for example 0.5.")
@click.option("--parameters", type=float, help="channel: share of the parameters to keep.")
@click.option("--latency", type=float, help="channel: share of the latency to keep, estimated for --device.")
@click.option("--device", metavar="NAME", help="channel: the profile for --latency ('edgeprune devices'), or a .toml.")
@click.option("--lossless", is_flag=True, help="channel: remove dead channels only; outputs stay the same.")
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="The same fraction in each layer, or one threshold through all of them.",
)
@click.option(
    "--importance",
    type=click.Choice(["l1", "l2", "bn_scale", "fpgm", "lamp", "taylor", "activation", "random"]),
    default="lamp",
    show_default=True,
    help="channel: how channels are ranked. taylor and activation need --train.",
)
@click.option(
    "--round-to",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="channel: widths become multiples of this; 8 suits int8 kernels, 16 float ones.",
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Prune only layers whose name or type matches. Repeatable."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave matching layers as they are. Repeatable.")
@click.option("--prune-depthwise", is_flag=True, help="magnitude: prune depthwise kernels too.")
@click.option("--keep-first", is_flag=True, help="magnitude: leave the first prunable layer dense.")
@click.option("--keep-last", is_flag=True, help="magnitude: leave the last prunable layer dense.")
@click.option(
    "--through-norms", is_flag=True, help="channel: also where a LayerNormalization reads them (its statistics change)."
)
@click.option(
    "--compensate",
    type=click.Choice(["none", "mean"]),
    default="none",
    show_default=True,
    help="channel: move the mean of removed channels into the next bias (needs --train).",
)
@click.option("--train", type=PATH, metavar="NPZ", help="channel: training samples to look at.")
@click.option(
    "--verify/--no-verify", default=True, help="channel: check the new model on random inputs.  [default: verify]"
)
@click.option("-v", "--verbose", is_flag=True, help="Show asked and got for each layer.")
@common_options("data", "metric", "scale", "offset", "seed", "overwrite", "json", "trust", "custom")
@click.pass_context
def prune(context: click.Context, /, model: Path, output: Path, style: str, **options: Any) -> int:
    """Prune MODEL (.keras or .h5) in one shot; most ways need no data.

    --style magnitude sets the smallest weights to zero: the file keeps its size on disk and its speed, the download
    shrinks. --style channel removes whole channels with everything that is tied to them: a smaller and faster model of
    the same layers. With --data the model is scored before and after. To recover accuracy: edgeprune finetune.

    \b
    Examples:
      edgeprune prune model.keras --sparsity 0.8 -o sparse.keras
      edgeprune prune model.keras --style channel --ratio 0.4 -o narrow.keras
      edgeprune prune model.keras --style channel --macs 0.5 --importance taylor --train train.npz -o half.keras
      edgeprune prune model.keras --style channel --latency 0.6 --device pixel3-tflite-4t-float32 -o fast.keras
      edgeprune prune model.keras --style channel --lossless -o same.keras
    """
    strangers = MAGNITUDE_ONLY if style == "channel" else CHANNEL_ONLY
    given = [n for n in strangers if context.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
    if given:
        flag = "--" + given[0].replace("_", "-")
        hint = "; add --style channel" if style == "magnitude" else ""
        raise click.UsageError(f"{flag} does not belong to --style {style}{hint}")
    unused = ("importance", "round_to", "scope", "include", "exclude", "through_norms", "compensate", "train")
    if style == "channel" and (options["lossless"] or options["ratio"] is None):
        pointless = unused if options["lossless"] else ("scope",)
        given = [n for n in pointless if context.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
        if given:
            why = "--lossless removes dead channels only" if options["lossless"] else "--scope is for --ratio"
            raise click.UsageError(f"--{given[0].replace('_', '-')} has no effect: {why}")
    mine = {name: value for name, value in options.items() if name not in strangers}
    if style == "channel":
        from edgeprune.channel_verbs import channel_verb

        return channel_verb(model, output, **mine)
    if mine["sparsity"] is None:
        raise click.UsageError("Missing option '--sparsity': the fraction of weights to remove, for example 0.8")
    from edgeprune.verbs import prune_verb

    return prune_verb(model, output, **mine)


@cli.command()
@click.argument("model", type=PATH)
@click.option("--through-norms", is_flag=True, help="Follow channels through LayerNormalization too.")
@common_options("json", "trust", "custom")
def groups(model: Path, **options: Any) -> int:
    """List the dependency groups of MODEL: layers that must lose the same channels, what is at stake in each, and
    whether it can be pruned or why not."""
    from edgeprune.channel_verbs import groups_verb

    return groups_verb(model, **options)


@cli.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The tuned model, a .keras file.")
@click.option("--train", type=PATH, required=True, metavar="NPZ", help="Training samples.")
@click.option("--validation", type=PATH, metavar="NPZ", help="Samples that choose the best epoch.")
@click.option("--epochs", type=int, required=True, help="Passes over the training samples.")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--flip", is_flag=True, help="Mirror training images left to right at random.")
@click.option("--shift", type=int, default=0, show_default=True, help="Move training images by up to so many pixels.")
@click.option("--teacher", type=PATH, metavar="MODEL", help="Learn from this model's answers too.")
@click.option(
    "--distill",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of the loss that the answers of --teacher have.",
)
@click.option("--temperature", type=float, default=3.0, show_default=True, help="Warmth of the teacher's answers.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better validation value.")
@common_options("metric", "scale", "offset", "seed", "overwrite", "json", "quiet", "trust", "custom")
def finetune(model: Path, output: Path, **options: Any) -> int:
    """Train MODEL on. Weights that are zero stay zero, so a pruned model stays pruned."""
    from edgeprune.verbs import finetune_verb

    return finetune_verb(model, output, **options)


@cli.command()
@click.argument("model", type=PATH)
@click.option("--to", "to", type=click.Choice(["tflite", "coreml"]), required=True, help="Format of the output.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    metavar="NAME",
    help="tflite: float32 (default), float16, dynamic, int8, int16x8. coreml: float32, float16 (default), int8, "
    "palette2, palette4, palette6, palette8, sparse; from iOS18 sparse-int8, sparse-palette4, -palette6, -palette8.",
)
@click.option("-o", "--output", type=PATH, required=True, help="A .tflite file or .mlpackage folder.")
@click.option(
    "--calibration",
    type=PATH,
    metavar="NPZ",
    help="Training samples, for tflite int8 and int16x8: their ranges set the scales.",
)
@click.option("--samples", type=int, default=200, show_default=True, help="How many calibration samples to use.")
@click.option(
    "--io-type",
    type=click.Choice(["float32", "int8", "int16"]),
    default="float32",
    show_default=True,
    help="Inputs and outputs of tflite int8 (float32, int8) and int16x8 (float32, int16).",
)
@click.option(
    "--float-fallback", is_flag=True, help="tflite int8, int16x8: operations without an integer kernel stay in float."
)
@click.option(
    "--deployment-target",
    default="iOS16",
    show_default=True,
    metavar="TARGET",
    help="coreml: oldest iOS that must run the package: iOS15, iOS16, iOS17 or iOS18.",
)
@click.option(
    "--image-input",
    metavar="NAME",
    help="coreml: this input takes pictures; the model gets pixel * SCALE + OFFSET (see --scale).",
)
@click.option("--image-bias", metavar="B,B,B", help="coreml: an offset for each channel, instead of --offset.")
@click.option(
    "--color",
    type=click.Choice(["RGB", "BGR", "GRAYSCALE"]),
    help="coreml: order of the channels that the model was trained with.  [default: RGB]",
)
@click.option(
    "--class-labels",
    type=PATH,
    metavar="TXT",
    help="coreml: one label a line; the package becomes a classifier.",
)
@click.option("--author", help="coreml: shown by Xcode, like --license, --description and --version.")
@click.option("--license", help="coreml: licence of the model.")
@click.option("--description", help="coreml: what the model does.")
@click.option("--version", help="coreml: version of the model.")
@TOLERANCE
@click.option("--bisect", is_flag=True, help="Where the file departs from the model, name the first layer that does.")
@common_options("data", "metric", "scale", "offset", "seed", "overwrite", "json", "quiet", "trust", "custom")
def convert(model: Path, output: Path, **options: Any) -> int:
    """Convert MODEL (.keras, .h5 or a SavedModel folder) to TFLite or Core ML and check the file against it.

    Every file is run and compared with the Keras model before it is written: a .tflite by the installed interpreters,
    a Core ML package by Core ML on a Mac and by the evaluator elsewhere. The samples are those of --data, or 8 random
    ones. Only tflite int8 and int16x8 need data (--calibration).

    \b
    Examples:
      edgeprune convert model.keras --to tflite --precision int8 --calibration train.npz --data test.npz -o model.tflite
      edgeprune convert model.keras --to coreml --precision palette4 -o Model.mlpackage
      edgeprune convert model.keras --to coreml --image-input image --scale 0.00784314 --offset -1 \\
          --class-labels labels.txt -o Photo.mlpackage
    """
    from edgeprune.export_verbs import convert_verb

    return convert_verb(model, output, **options)


@cli.command()
@click.argument("exported", type=PATH)
@click.option("--against", type=PATH, required=True, metavar="MODEL", help="The Keras model it came from.")
@click.option("--data", type=PATH, metavar="NPZ", help="Samples to compare on.  [default: 8 random ones]")
@click.option(
    "--metric", type=click.Choice(["accuracy", "auc", "mse", "mae"]), help="Score both, with the targets y of --data."
)
@click.option("--image-bias", metavar="B,B,B", help="Image input: an offset for each channel, instead of --offset.")
@TOLERANCE
@click.option("--bisect", is_flag=True, help="Name the first layer that departs from the model.")
@common_options("scale", "offset", "json", "quiet", "trust", "custom")
def verify(exported: Path, **options: Any) -> int:
    """Does EXPORTED (.tflite or .mlpackage, made by anyone) compute what a Keras model computes?

    A .tflite file runs in the installed interpreters. A Core ML package runs in Core ML on a Mac; elsewhere the
    evaluator carries out its program operation by operation: graph and weights, not Apple's kernels. A comparison is as
    good as its samples: random ones do not reach everything, give real ones with --data. Inputs are matched by name,
    else by size and position; outputs by name, else by value. Exit code 3 when it departs or cannot be verified.

    \b
    Examples:
      edgeprune verify app/model.tflite --against model.keras --data test.npz --metric accuracy
      edgeprune verify Model.mlpackage --against model.keras --bisect
      edgeprune verify Photo.mlpackage --against model.keras --scale 0.00784314 --offset -1   (image input)
    """
    from edgeprune.verify_verbs import verify_verb

    return verify_verb(exported, **options)


for _command in (bench, calibrate, check, compare, devices, estimate, inspect):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. One line on stderr and the error's own exit code; never a traceback for what was foreseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    with handlers():
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
        _fail(f"{error.filename or 'temporary files'}: {error.strerror or error}", 3)
    except MemoryError:
        _fail("out of memory; use fewer samples or a smaller batch", 3)
    except Exception as error:
        if os.environ.get("EDGEPRUNE_DEBUG"):
            raise
        _fail(
            f"unexpected {type(error).__name__}: {str(error)[:300]}; this is a defect of edgeprune: "
            "run again with EDGEPRUNE_DEBUG=1 and report what it prints",
            3,
        )
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int) -> None:
    line = " ".join(text.split())
    click.echo(f"edgeprune: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
