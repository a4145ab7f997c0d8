"""The published rules of accelerators, read from the .toml files here: one for each document, whatever it serves."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune.checker.latency.accelerators.checks import CHECKS
from edgeprune.checker.latency.accelerators.view import View
from edgeprune.checker.latency.sparsity import Condition
from edgeprune.errors import UsageError

__all__ = ["SCHEMA", "Accelerator", "Rule", "Source", "find_accelerator", "target_names"]

SCHEMA = 1
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A document: its address, and what it says of its date."""

    address: str
    dated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition on operations of some kinds ("*": of all, `excepted` apart).

    `when` and `unless` restrict it to operations with these attributes. Where it is not met, `otherwise` says whether
    that settles it ("no"), or whether the document goes on in a way that is not read here ("unknown").
    """

    ops: tuple[str, ...]
    check: str
    says: str
    source: Source
    value: Any = None
    found: str = ""
    otherwise: str = "no"
    excepted: tuple[str, ...] = ()
    when: Mapping[str, list[int]] = field(default_factory=dict)
    unless: Mapping[str, list[int]] = field(default_factory=dict)

    def applies(self, view: View) -> bool:
        """Whether it is about this operation."""
        kind = view.kind
        if kind in self.excepted or not ("*" in self.ops or kind in self.ops):
            return False
        attributes = view.attributes
        if any(name in attributes and attributes[name] not in among for name, among in self.when.items()):
            return False
        return not self.unless or not all(attributes.get(name) in among for name, among in self.unless.items())

    def condition(self, view: View) -> Condition:
        """How it stands with an operation that it is about."""
        found = CHECKS[self.check](view, self.value)
        met = None if found is None or (found and self.otherwise == "unknown") else not found
        text = found or self.found or ("the file does not tell" if met is None else "it is so")
        return Condition(rule=self.says, met=met, found=text, source=self.source.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """What one document says of a target.

    `operations` are those that it lists. `parts` is "first" where only the operations up to the first that stays on the
    CPU are taken, "any" where each stands for itself; a kind in `passes` ends no part where it reads a float input.
    `pattern` ("2:4") is what weights must keep where the rules are about the weights of a file of any format; then
    `operations` are "convolution" and "matmul".
    """

    target: str
    title: str
    compiler: str
    precisions: tuple[str, ...]
    parts: str
    passes: tuple[str, ...]
    operations: frozenset[str]
    listed_in: Source
    parts_rule: str
    parts_source: Source
    rules: tuple[Rule, ...]
    sources: tuple[Source, ...]
    pattern: str = ""


@cache
def _tables() -> dict[str, Mapping[str, Any]]:
    """Target -> its table; they are few, and read once."""
    tables = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.toml"))]
    return {target: table for table in tables for target in table["targets"]}


def target_names() -> tuple[str, ...]:
    """The targets that there are rules for."""
    return tuple(_tables())


@cache
def find_accelerator(target: str) -> Accelerator:
    """The rules of a target. Raises UsageError for an unknown one."""
    tables = _tables()
    if target not in tables:
        near = difflib.get_close_matches(target.lower(), tables, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no target {target!r}; {hint}there are rules for {', '.join(tables)}")
    table = tables[target]
    sources = {name: Source(**source) for name, source in table["sources"].items()}
    part = table.get("parts_rule", {"says": "", "source": table["operations"]["source"]})
    return Accelerator(
        target=target,
        title=table["title"],
        compiler=table["compiler"],
        precisions=tuple(table["precisions"]),
        parts=table["parts"],
        passes=tuple(table["passes"]),
        operations=frozenset(table["operations"]["names"]),
        listed_in=sources[table["operations"]["source"]],
        parts_rule=part["says"],
        parts_source=sources[part["source"]],
        rules=tuple(_rule(row, sources) for row in table["rules"]),
        sources=tuple(sources.values()),
        pattern=table.get("pattern", ""),
    )


def _rule(row: Mapping[str, Any], sources: Mapping[str, Source]) -> Rule:
    facts = dict(row)
    return Rule(
        ops=tuple(facts.pop("ops")),
        excepted=tuple(facts.pop("except", ())),
        source=sources[facts.pop("source")],
        **facts,
    )
