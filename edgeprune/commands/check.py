"""`edgeprune check`: model files against their budgets. Light imports only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from edgeprune.checker.arm.cpus import CPUS
from edgeprune.checker.budget import given_budget
from edgeprune.checker.config import CONFIG, Config, find_config, load_config, sample_config
from edgeprune.checker.history.since import HISTORY_SUFFIX, split_since
from edgeprune.checker.size.codecs import BASE_CODEC, FULL, QUICK
from edgeprune.checker.written import LIMITS
from edgeprune.commands.options import (
    EXIT_CODES,
    PATH,
    check_page_name,
    chosen_format,
    common_options,
    device_option,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.host.untrusted import real_place
from edgeprune.verdict import Limit

if TYPE_CHECKING:
    from edgeprune.checker.check import Check, Wanted
    from edgeprune.host.git import GitCommit

__all__ = ["check"]

_FOR_MACHINES = ("junit", "github", "sarif")  # an empty report there would pass for a good one
Command = TypeVar("Command", bound=Callable[..., int])


def _limit_options(command: Command) -> Command:
    """An option for each limit of a budget, by its key."""
    for limit, written in reversed(list(LIMITS.items())):
        name = f"--{limit.replace('_', '-')}"
        if written.kinds == (bool,):
            option = click.option(name, str(limit), flag_value="true", help=written.help)
        else:
            option = click.option(name, str(limit), metavar=written.metavar, help=written.help)
        command = option(command)
    return command


@click.command(cls=Verb)
@click.argument("files", nargs=-1, type=PATH)
@click.option("--config", type=PATH, help="Budgets.  [default: edgeprune.toml or pyproject.toml, here or above]")
@click.option(
    "--baseline",
    type=PATH,
    help="What to compare with: a model file, a folder, an earlier JSON report, a history, a ledger.json.",
)
@click.option(
    "--history",
    type=PATH,
    metavar="FILE.jsonl",
    help="Add a line with what this commit costs, and without --baseline compare with the commit before.",
)
@click.option("--commit", metavar="NAME", help="Of that line: a hash or a name.  [default: git's commit here]")
@click.option("--arm", type=click.Choice(list(CPUS)), help="In that line also count instructions on an emulated cpu.")
@_limit_options
@click.option(
    "--codec",
    type=click.Choice(FULL),
    default="deflate",
    show_default=True,
    help="What --download and --growth are about; deflate is what a zip, APK or IPA download costs.",
)
@click.option("--ledger", type=PATH, help="The ledger.json of the run that made the file, for --max-metric-drop.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown", "junit", "github", "sarif", "benchmark-action", "bmf"]),
    help="Of the report on stdout (or in --output).  [default: text]",
)
@click.option("-o", "--output", type=PATH, help="Write the report there; a text report still goes to stdout.")
@click.option("--why", is_flag=True, help="Say where the bytes are and what would make them fewer.")
@click.option("--fast", is_flag=True, help="Measure deflate and a quick zstd (level 12) only: a tenth of the time.")
@device_option(
    "Also estimate the latency on a device ('edgeprune devices', or a .toml of your own); repeatable.",
    "devices",
    multiple=True,
)
@click.option("--target", metavar="NAME", help="The accelerator that --min-eligible is about, as for 'estimate'.")
@click.option("--show", is_flag=True, help="Only show the FILES: no limit is held, exit code 0.")
@common_options("html", "json")
def check(
    files: tuple[Path, ...],
    config: Path | None,
    baseline: Path | None,
    history: Path | None,
    commit: str | None,
    arm: str | None,
    codec: str,
    ledger: Path | None,
    output_format: str | None,
    output: Path | None,
    why: bool,
    fast: bool,
    devices: tuple[str, ...],
    target: str | None,
    show: bool,
    page: Path | None,
    as_json: bool,
    **limits: str | None,
) -> int:
    """Show what model FILES cost to install and to download, and hold them against budgets.

    Without FILES, those of the budgets in edgeprune.toml. Reads .tflite, .mlpackage, .mlmodel, .mlmodelc, .keras, .h5,
    .onnx, and the models inside .apk, .aab, .ipa and .zip. Needs neither TensorFlow nor Keras. Exit code 1 when a limit
    is exceeded, 3 when one cannot be checked, 2 when there is no limit at all.

    \b
    A budget in edgeprune.toml ([[tool.edgeprune.budget]] in pyproject.toml):
      [[budget]]
      path = "models/*.tflite"     a glob, from the folder of this file
      download = "350 kB"          the compressed file; codec = "deflate" | "brotli" | "zstd" | "xz"
      install = "1.2 MB"           the file itself
      growth = "2 %"               of the download against --baseline; or "50 kB"; against the history "2 % over
                                   the last 10 commits", "5 % since tag v1"
      parameters = 500000
      min_sparsity = "50 %"        of the weights; or 0.5
      max_metric_drop = "1 %"      read from ledger = "out/ledger.json"
      max_latency_ms = 12          estimated for device = "pixel3-tflite-4t-float32"
      max_latency_growth = "5 %"   of that estimate against --baseline
      min_eligible = "80 %"        of the MACs on target = "edgetpu"
      pattern = "2:4"              kept by every weight that can
      max_float_ops = 0            of an integer .tflite file
      channel_multiple = 8         of the channels between layers
      sparse_kernels = true        XNNPACK's on Arm would run

    \b
    Examples:
      edgeprune check model.tflite --download "350 kB" --min-sparsity "75 %"
      edgeprune check --baseline main.json --format markdown -o comment.md
      edgeprune check app-release.apk --show --why
      edgeprune check --history sizes.jsonl --growth "2 % over the last 10 commits"
      edgeprune check model.tflite --show --device pixel3-tflite-4t-float32
    """
    from edgeprune.checker.check import CheckOptions, check_files, wanted_files

    texts = {Limit(key): text for key, text in limits.items() if text is not None}
    of_limit = None if history and Limit.MAX_METRIC_DROP not in texts else ledger  # a line tells the metric, too
    given = given_budget(texts, codec=codec, devices=devices, ledger=of_limit, target=target)
    _refuse_contradictions(files, config, texts, baseline or history, show=show, fast=fast, codec=codec)
    begun = _begun(history, commit, arm)
    settings = None if show else _settings(files, config, limited=given is not None)
    wanted = wanted_files(files, settings, given)
    ledgers = [budget.ledger for item in wanted for budget in item.budgets]
    read = [*(item.path for item in wanted), baseline, history, settings.path if settings else None, *ledgers]
    _refuse_replacing(output, [path for path in read if path is not None])
    check_page_name(page, [path for path in read if path is not None])
    kind = chosen_format(as_json, output_format)
    if kind in _FOR_MACHINES and not any(item.budgets for item in wanted):
        raise UsageError(
            f"--format {kind} reports limits, and none was given: nothing would be checked; add --download, or "
            f"budgets in {CONFIG}"
        )
    options = CheckOptions(
        baseline=baseline, history=history, commit=begun, codec=codec, fast=fast, devices=devices, why=why
    )
    found = check_files(wanted, options, config=settings.path if settings else None, whole=not files)
    if page is not None:
        from edgeprune.commands.pages import write_page
        from edgeprune.report.html.file_pages import check_page

        write_page(check_page(found), page)
    _tell(found, kind, output)
    code = _exit_code(found, show=show)
    if history is not None and begun is not None:
        _record(history, begun, found, wanted, ledger, arm)
    return code


def _begun(history: Path | None, commit: str | None, arm: str | None) -> GitCommit | None:
    """The commit that a line of the history will be of, None without one. Raises UsageError before any work."""
    for name, value in (("--commit", commit), ("--arm", arm)):
        if history is None and value is not None:
            raise UsageError(f"{name} is about the line that --history adds; give --history sizes.jsonl as well")
    if history is None:
        return None
    if history.suffix.lower() != HISTORY_SUFFIX:
        raise UsageError(f"{history}: a history ends in {HISTORY_SUFFIX}; name it {history.stem}{HISTORY_SUFFIX}")
    from edgeprune.host.git import named_commit, this_commit

    return this_commit(Path.cwd()) if commit is None else named_commit(Path.cwd(), commit)


def _record(
    history: Path, commit: GitCommit, found: Check, wanted: Sequence[Wanted], ledger: Path | None, arm: str | None
) -> None:
    """Add the line of a commit to the history."""
    from edgeprune.checker.history.lines import append_record
    from edgeprune.checker.history.recording import commit_record, instruction_counter

    count = instruction_counter(arm) if arm is not None else None
    added = append_record(history, commit_record(found, commit, wanted, ledger=ledger, count=count))
    click.echo(f"edgeprune: {history}: {commit.short} {'recorded' if added else 'is there already'}", err=True)


def _refuse_contradictions(
    files: Sequence[Path],
    config: Path | None,
    limits: Mapping[Limit, str],
    baseline: Path | None,
    *,
    show: bool,
    fast: bool,
    codec: str,
) -> None:
    """Raise UsageError for options that contradict each other."""
    if fast and codec not in QUICK:
        raise UsageError(f"--fast measures {' and '.join(QUICK)} only; drop --fast, or limit {BASE_CODEC}")
    if show and (limits or config or not files):
        raise UsageError("--show only shows the FILES that are named, and checks nothing; drop it, or the limits")
    growth = [limit for limit in Limit if limit.of_baseline and limit in limits]
    if growth and baseline is None:
        add = "--history FILE.jsonl" if split_since(limits[growth[0]])[1] else "--baseline FILE"
        raise UsageError(f"--{growth[0].replace('_', '-')} needs something to compare with; add {add}")


def _refuse_replacing(output: Path | None, read: Sequence[Path]) -> None:
    """Raise UsageError for a report that would take the place of what it is about."""
    if output is not None and real_place(output) in map(real_place, read):
        raise UsageError(f"{output}: the report would replace a file that is read; give --output another name")


def _settings(files: Sequence[Path], config: Path | None, *, limited: bool) -> Config | None:
    """The configuration in force: the one named, else the nearest; none where limits and FILES are given."""
    if config is not None:
        return load_config(config)
    if limited and files:
        return None
    nearest = find_config(Path.cwd())
    if nearest is not None:
        return load_config(nearest)
    if not files:
        click.echo(sample_config(Path()), nl=False)
        raise UsageError(
            f"no files and no {CONFIG}; name model files, or save the lines above as {CONFIG}, as edgeprune init does"
        )
    return None


def _tell(found: Check, kind: str, output: Path | None) -> None:
    """Write the report, or print it; a report in a file leaves a text for the log."""
    from edgeprune.host.outputs import write_file
    from edgeprune.report.check_report import FORMATS

    text = FORMATS[kind](found)
    if output is not None:
        write_file(output, text.encode())
        text = FORMATS["text"](found)
    click.echo(text, nl=False)


def _exit_code(found: Check, *, show: bool) -> int:
    """1 over a limit, 3 when one cannot be checked. Raises UsageError when nothing was checked, and the worst error of
    the broken files."""
    if found.broken is not None:
        raise found.broken
    if not found.verdicts and not show:
        raise UsageError(
            f"no limit was given, so nothing was checked: add --download SIZE, or budgets in {CONFIG} (--show only "
            "shows)"
        )
    return EXIT_CODES[found.passed]
