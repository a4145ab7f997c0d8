"""`edgeprune prune`: zeros, or fewer channels, in one shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["prune"]

CHANNEL_ONLY = (
    *("ratio", "macs", "parameters", "latency", "device", "lossless", "importance", "round_to", "through_norms"),
    *("compensate", "verify", "train", "seed"),
)
MAGNITUDE_ONLY = ("sparsity", "prune_depthwise", "keep_first", "keep_last")


@click.command()
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
        from edgeprune.commands.channel_verbs import channel_verb

        return channel_verb(model, output, **mine)
    if mine["sparsity"] is None:
        raise click.UsageError("Missing option '--sparsity': the fraction of weights to remove, for example 0.8")
    from edgeprune.commands.verbs import prune_verb

    return prune_verb(model, output, **mine)
