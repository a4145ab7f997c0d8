"""`edgeprune groups`: which layers must lose the same channels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import PATH, Trust, common_options, echo_json, taken
from edgeprune.commands.screens import Verb

if TYPE_CHECKING:
    from edgeprune.maker.pruning.channel.groups import Member, Structure

__all__ = ["groups"]

UNKNOWN = "a number of MACs that is not known (a size is open, or a layer is not followed)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A dependency group: its members, and what all that touches its channels costs. MACs are None where not known."""

    name: str
    channels: int
    channels_per_unit: int
    members: tuple[Member, ...]
    parameters: int
    macs: int | None
    prunable: bool
    reason: str | None


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("--through-norms", is_flag=True, help="Follow channels through LayerNormalization too.")
@common_options("json", "trust", "custom")
def groups(model: Path, through_norms: bool, as_json: bool, **values: Any) -> int:
    """List the dependency groups of MODEL: layers that must lose the same channels, what is at stake in each, and
    whether it can be pruned or why not.

    \b
    Examples:
      edgeprune groups model.keras
      edgeprune groups model.keras --through-norms --json
    """
    from edgeprune.maker.pruning.channel.pruner import analyse

    structure = analyse(taken(Trust, values).load(model), through_norms=through_norms)
    if as_json:
        _echo_facts(model, structure)
    else:
        click.echo(_text(structure))
    return 0


def _rows(structure: Structure) -> list[_Row]:
    from edgeprune.maker.pruning.channel.plan import macs_unknown

    unknown = macs_unknown(structure)
    rows = []
    for group in structure.groups:
        stake = structure.at_stake(group)
        rows.append(
            _Row(
                name=group.name,
                channels=group.channels,
                channels_per_unit=group.width,
                members=tuple(group.members),
                parameters=stake.parameters,
                macs=None if unknown else stake.macs,
                prunable=group.reason is None,
                reason=group.reason,
            )
        )
    return rows


def _echo_facts(path: Path, structure: Structure) -> None:
    from edgeprune.artifact import sha256_of

    echo_json(
        {
            "schema_version": 1,
            "input": {"path": str(path), "sha256": sha256_of(path)},
            "groups": [asdict(row) for row in _rows(structure)],
            "not_followed": [{"layer": name, "reason": reason} for name, reason in structure.trace.fences],
        }
    )


def _text(structure: Structure) -> str:
    from edgeprune.maker.pruning.channel.plan import macs_unknown
    from edgeprune.report.table import Table, to_text
    from edgeprune.units import format_count

    rows, whole = _rows(structure), structure.whole()
    heads = ("made by", "read by", "channels", "parameters", "MACs", "prunable")
    lines = [to_text(Table(heads=heads, rows=tuple(_cells(row) for row in rows), left=frozenset({0, 5})))]
    for name, reason in dict(structure.trace.fences).items():
        lines.append(f"not followed: {reason}" + ("" if name in reason else f" ({name})"))
    macs = UNKNOWN if macs_unknown(structure) else f"{format_count(whole.macs)} MACs"
    lines.append(
        f"\n{sum(row.prunable for row in rows)} of {len(rows)} groups can lose channels. Parameters and MACs are those "
        f"of all that touches the group's channels; the model has {format_count(whole.parameters)} parameters and "
        f"{macs}."
    )
    return "\n".join(lines)


def _cells(row: _Row) -> tuple[str, ...]:
    from edgeprune.units import format_count

    return (
        ", ".join(member.layer for member in row.members if member.makes) or row.name,
        str(sum(not member.makes for member in row.members)),
        f"{row.channels:,}" + (f" ({row.channels_per_unit} at once)" if row.channels_per_unit > 1 else ""),
        format_count(row.parameters),
        "not known" if row.macs is None else format_count(row.macs),
        "yes" if row.prunable else f"no: {row.reason}",
    )
