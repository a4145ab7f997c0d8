"""`edgeprune devices`: the device profiles. Light imports only."""

from __future__ import annotations

import click

from edgeprune.commands.options import common_options, echo_json
from edgeprune.commands.screens import Verb

__all__ = ["devices"]


@click.command(cls=Verb)
@common_options("json")
def devices(as_json: bool) -> int:
    """List the device profiles with their errors on networks that the fit has not seen.

    \b
    Examples:
      edgeprune devices
      edgeprune devices --json
    """
    from edgeprune.checker.latency.profiles import shipped_profiles
    from edgeprune.report.latency_report import devices_text, profile_json

    profiles = shipped_profiles()
    if as_json:
        echo_json({"schema_version": 1, "devices": [profile_json(profile) for profile in profiles]})
    else:
        click.echo(devices_text(profiles))
    return 0
