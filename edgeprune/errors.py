"""Every error the tool raises on purpose, and the exit code each one owns.

EdgepruneError          3  could not do it
├── FileFault           3  something unforeseen that one file met
├── UsageError          2  a wrong option or argument
│   ├── RecipeError     2  a wrong recipe or configuration
│   └── OutOfReach      2  a target that the model cannot be brought to
├── Unsupported         3  valid input that this tool cannot handle
├── MissingExtra        3  a package of an optional extra is not installed
├── ConversionError     3  a converter refused, crashed or produced a wrong file
├── RuntimeFailure      3  an interpreter refused, crashed or hung
├── OutputError         3  an output could not be written
└── InputError          4  an input file is missing, unreadable or not what it claims
"""

from __future__ import annotations

__all__ = [
    "ConversionError",
    "EdgepruneError",
    "FileFault",
    "InputError",
    "MissingExtra",
    "OutOfReach",
    "OutputError",
    "RecipeError",
    "RuledOut",
    "RuntimeFailure",
    "Unsupported",
    "UsageError",
]

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C (128 + SIGINT)


class EdgepruneError(Exception):
    """One clear line: what, where, and what to type next."""

    exit_code = 3


class FileFault(EdgepruneError):
    """Something that nobody foresaw, met while one file was read: a defect of edgeprune, no memory, a full disk."""


class UsageError(EdgepruneError):
    """A wrong option or argument."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be run as it stands."""


class OutOfReach(UsageError):
    """A target that the model cannot be brought to; the message tells the nearest that can."""


class RuledOut(EdgepruneError):
    """A target that nothing can reach, known before any training; the message tells the nearest that may be."""


class Unsupported(EdgepruneError):
    """A valid input that this tool cannot handle."""


class MissingExtra(EdgepruneError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, not installed here: pip install 'edgeprune[{extra}]'")
        self.package, self.extra = package, extra


class ConversionError(EdgepruneError):
    """A converter refused, crashed or produced a wrong file."""


class RuntimeFailure(EdgepruneError):
    """An interpreter refused a file, crashed or hung."""


class OutputError(EdgepruneError):
    """An output could not be written."""


class InputError(EdgepruneError):
    """An input file is missing, unreadable or not what it claims to be."""

    exit_code = 4


def unexpected(error: Exception) -> str:
    """A defect of edgeprune in words, with what to do."""
    return (
        f"unexpected {type(error).__name__}: {' '.join(str(error)[:300].split())}; this is a defect of edgeprune: "
        "run again with EDGEPRUNE_DEBUG=1 and report what it prints"
    )
