"""What a verb lets --format be is what its report has."""

from __future__ import annotations

from collections.abc import Mapping

import click
import pytest

from edgeprune.commands.check import check
from edgeprune.commands.compare import compare
from edgeprune.commands.history import history
from edgeprune.commands.inspect import inspect
from edgeprune.report.check_report import FORMATS
from edgeprune.report.compare_report import COMPARE_FORMATS
from edgeprune.report.history_report import HISTORY_FORMATS
from edgeprune.report.inspect_report import INSPECT_FORMATS


@pytest.mark.parametrize(
    ("verb", "table"),
    [(check, FORMATS), (compare, COMPARE_FORMATS), (history, HISTORY_FORMATS), (inspect, INSPECT_FORMATS)],
)
def test_formats_of_a_verb_are_those_of_its_report(verb: click.Command, table: Mapping[str, object]) -> None:
    """The choices stand in the command, where no report may be loaded for --help."""
    (option,) = [parameter for parameter in verb.params if parameter.name == "output_format"]
    assert isinstance(option.type, click.Choice)
    assert sorted(option.type.choices) == sorted(table)
