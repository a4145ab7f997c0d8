"""`file.py:function`: the user's own code gives the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.spool import Spool
from edgeprune.maker.training.user_code import user_function

__all__ = ["read_code"]

ENDLESS = -1  # tf.data.INFINITE_CARDINALITY
MOST_BATCHES = 1_000_000  # a generator of more has no end, as far as anyone can tell


def read_code(file: Path, name: str, *, trust_code: bool) -> dict[str, Column]:
    """What `name()` of a Python file returns, as columns: "x" or the names of inputs, "y", "sample_weight".

    It returns inputs, (inputs, targets) or (inputs, targets, sample_weight), inputs and targets an array or a dict of
    arrays by the name of the input or output; or something that gives batches of these: a tf.data.Dataset, a keras
    PyDataset, a loader, a generator. Batches are gone through once. Raises Unsupported without `trust_code`, InputError
    for what the function gives.
    """
    what = f"{file}:{name}"
    function = user_function(file, name, trust_code=trust_code)
    given = _called(what, function)
    if not _is_batches(given):
        return dict(_named(what, given))
    if getattr(given, "cardinality", None) is not None and int(given.cardinality()) == ENDLESS:
        raise InputError(f"{what}: gives batches without end (.repeat()); give the data set once")
    with Spool(what) as spool:
        try:
            for batch in _batches(what, given):
                spool.add(_named(what, batch), full=True)
        except EdgepruneError:
            raise
        except (Exception, SystemExit) as cause:
            told = f"{type(cause).__name__}: {_line(cause)}"
            raise InputError(f"{what}: fails after {len(spool)} samples: {told}") from cause
        return dict(spool.columns())


def _called(what: str, function: Any) -> Any:
    try:
        return function()
    except EdgepruneError:
        raise
    except (Exception, SystemExit) as cause:  # sys.exit in it is no end of ours
        raise InputError(f"{what}: fails: {type(cause).__name__}: {_line(cause)}") from cause


def _line(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:160]


def _is_batches(given: Any) -> bool:
    return not isinstance(given, tuple | Mapping) and not hasattr(given, "__array__")


def _batches(what: str, given: Any) -> Iterator[Any]:
    """What a data set gives, once; a PyDataset has numbers of batches and no end of its own.

    Raises InputError where it ends before the number of batches that it tells, or not at all.
    """
    promised, number = _promised(what, given), 0
    for batch in _each(what, given, promised):
        number += 1
        if number > MOST_BATCHES:
            raise InputError(f"{what}: more than {MOST_BATCHES:,} batches; if it has an end, give larger batches")
        yield batch
    if promised is not None and number < promised:
        raise InputError(f"{what}: ends after {number} of the {promised} batches that it tells")


def _each(what: str, given: Any, promised: int | None) -> Iterable[Any]:
    if promised is not None and hasattr(given, "num_batches"):
        return (given[number] for number in range(promised))
    if not isinstance(given, Iterable):
        raise InputError(f"{what}: gives {type(given).__name__}, neither arrays nor batches of arrays")
    return given


def _promised(what: str, given: Any) -> int | None:
    """How many batches a data set says that it has, None where it does not say."""
    if hasattr(given, "__getitem__") and hasattr(given, "num_batches"):
        if given.num_batches is None:  # what Keras takes for one without end
            raise InputError(f"{what}: gives batches without end (num_batches is None); give their number")
        return int(given.num_batches)
    if not isinstance(given, Sized):
        return None
    try:
        return len(given)
    except TypeError:  # a tf.data.Dataset, a loader that does not know
        return None


def _named(what: str, given: Any) -> Mapping[str, npt.NDArray[Any]]:
    """Arrays by name out of inputs, (inputs, targets) or (inputs, targets, sample_weight)."""
    parts = given if isinstance(given, tuple | list) else (given,)
    if not 1 <= len(parts) <= 3:
        raise InputError(f"{what}: gives {len(parts)} things; give inputs, targets and, if there are, sample weights")
    names = dict(zip(("x", "y", "sample_weight"), parts, strict=False))
    if isinstance(names.get("sample_weight"), Mapping | tuple | list):
        raise InputError(f"{what}: gives sample weights by output; give one array, a weight for each sample")
    inputs = names.pop("x")
    targets = names.pop("y", None)
    if isinstance(targets, tuple | list) and len(targets) > 1 and all(getattr(t, "ndim", 0) for t in targets):
        raise InputError(f"{what}: gives targets as {len(targets)} arrays; give a dict of them by the output's name")
    named = {**(inputs if isinstance(inputs, Mapping) else {"x": inputs}), **names}
    named |= targets if isinstance(targets, Mapping) else {"y": targets}
    return {str(name): _array(what, name, value) for name, value in named.items() if value is not None}


def _array(what: str, name: Any, value: Any) -> npt.NDArray[Any]:
    try:
        found = np.asarray(value)
    except Exception as cause:  # tensors of other devices, ragged rows
        raise InputError(f"{what}: {name!r} is no array: {_line(cause)}") from cause
    if found.dtype.kind not in "fiub" or not found.ndim:
        raise InputError(f"{what}: {name!r} holds {found.dtype}, not rows of numbers")
    return found
