"""`edgeprune calibrate`: a profile of one's own phone. Light imports only."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.commands.options import PATH, common_options, device_option, echo_json
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

__all__ = ["calibrate"]


@click.command(cls=Verb)
@click.argument("measured", type=PATH)
@device_option("The profile to start from ('edgeprune devices').", required=True)
@click.option("-o", "--output", type=PATH, required=True, help="The new profile, a .toml.")
@click.option("--label", default="", metavar="TEXT", help="What to call the device, for example 'Pixel 9, our own'.")
@click.option("--models", type=PATH, help="The folder that the files in MEASURED are in.")
@common_options("overwrite", "json")
def calibrate(
    measured: Path, device: str, output: Path, label: str, models: Path | None, overwrite: bool, as_json: bool
) -> int:
    """Make a profile of your own phone from latencies that you MEASURED.

    MEASURED is a CSV with the columns file and latency_ms, or the output of LiteRT's benchmark_model (TFLite or
    LiteRT 2). One network sets the speed of the profile, five or more refit it. Measure with the threads and the
    precision of the profile. The error band comes from files left out and from the errors of the profile; it narrows
    with the number of files, or of families where a column family names them. Repeats of one file count by their
    median.

    \b
    Examples:
      edgeprune calibrate pixel9.csv --device pixel4-tflite-4t-float32 --models exports -o pixel9.toml
    """
    from edgeprune.checker.latency.calibrate import calibrate_from, settings_notes
    from edgeprune.checker.latency.measurements import read_measurements
    from edgeprune.checker.latency.profiles import dump_profile, find_profile
    from edgeprune.host.outputs import check_output_file, output_file
    from edgeprune.report.latency_report import calibrated_text, profile_json

    if label and not label.isprintable():
        raise UsageError("--label is one line of text, without tabs or control characters")
    check_output_file(output, overwrite=overwrite, suffix=".toml")
    base = find_profile(device)
    found = read_measurements(measured, models)
    made = calibrate_from(measured, base, found, output, device=label.strip())
    for note in settings_notes(base, found):
        click.echo(f"note: {note}", err=True)
    with output_file(output, overwrite=overwrite) as place:
        place.write_bytes(dump_profile(made).encode())
    if as_json:
        echo_json({"schema_version": 1, "output": str(output), **profile_json(made)})
    else:
        click.echo(calibrated_text(made, base, len(found), output))
    return 0
