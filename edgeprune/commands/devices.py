"""`edgeprune devices`: the device profiles. Light imports only."""

from __future__ import annotations

import click

from edgeprune.commands.options import common_options

__all__ = ["devices"]


@click.command()
@common_options("json")
def devices(as_json: bool) -> int:
    """List the device profiles with their errors on networks that the fit has not seen."""
    from edgeprune.commands.latency_verbs import devices_verb

    return devices_verb(as_json=as_json)
