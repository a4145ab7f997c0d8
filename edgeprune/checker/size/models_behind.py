"""The models behind a path: the file itself, or those inside an app bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.checker.size.account import account
from edgeprune.checker.size.records import FileAccount, InArchive
from edgeprune.errors import EdgepruneError, InputError, Unsupported
from edgeprune.formats import Contents, read_contents
from edgeprune.formats.bundles import BUNDLES
from edgeprune.verdict import Estimate

if TYPE_CHECKING:
    from edgeprune.formats.bundles.bundle import Bundle

__all__ = ["Estimator", "Refused", "Source", "Sources", "is_bundle", "no_estimates", "sources_of"]

Estimator = Callable[[Contents], tuple[Estimate, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A model: its account, what it holds, and where it is (None inside an archive)."""

    record: FileAccount
    contents: Contents
    file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A member of a bundle that may be a model and was not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sources:
    """What is behind one path; `notes` are sentences about the bundle as a whole, `error` why nothing was read."""

    models: tuple[Source, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)
    error: EdgepruneError | None = None


def is_bundle(path: Path) -> bool:
    """Whether models are looked for inside a file."""
    return path.suffix.lower() in BUNDLES and not path.is_dir()


def no_estimates(_: Contents) -> tuple[Estimate, ...]:
    """For those who ask for no latency."""
    return ()


def sources_of(
    path: Path,
    codecs: Sequence[str],
    *,
    every: bool = False,
    shares: bool = True,
    estimator: Estimator = no_estimates,
) -> Sources:
    """The models at `path`; `every` and `shares` as for `account`.

    `estimator` is called with each model that was read, also with those inside a bundle.

    Raises InputError, also for a bundle in which there is no model, and Unsupported where a file cannot be read.
    """
    if not is_bundle(path):
        contents = read_contents(path)
        record = account(contents, codecs, shares=shares, every=every, estimates=estimator(contents))
        return Sources(models=(Source(record=record, contents=contents, file=path),))
    from edgeprune.formats.bundles.bundle import read_bundle

    bundle = read_bundle(path)
    if not bundle.models and not bundle.unreadable:
        raise InputError(f"{path}: no model in it; nothing to check")
    found = list(_models(path, bundle, codecs, every, shares, estimator))
    unreadable = tuple(Refused(path=f"{path}!{item.name}", reason=item.reason) for item in bundle.unreadable)
    return Sources(
        models=tuple(item for item in found if isinstance(item, Source)),
        refused=unreadable + tuple(item for item in found if isinstance(item, Refused)),
        notes=tuple(f"{path}: {note}" for note in bundle.notes),
    )


def _models(
    path: Path, bundle: Bundle, codecs: Sequence[str], every: bool, shares: bool, estimator: Estimator
) -> Iterator[Source | Refused]:
    """Each model, or why it is none."""
    from edgeprune.formats.bundles.bundle import extracted

    for model in bundle.models:
        place = InArchive(
            archive=str(path),
            method=model.method,
            compressed_bytes=model.compressed_bytes,
            install_bytes=model.install_bytes,
            notes=model.notes,
        )
        name = f"{path}!{model.name}"
        with extracted(bundle, model) as inner:
            try:
                contents = read_contents(inner)
                record = account(contents, codecs, shares=shares, every=every, path=name, in_archive=place)
            except (InputError, Unsupported) as cause:
                yield Refused(path=name, reason=str(cause).replace(str(inner), model.name))
                continue
            yield Source(record=replace(record, estimates=estimator(contents)), contents=contents, file=None)
