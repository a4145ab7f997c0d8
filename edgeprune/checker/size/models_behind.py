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
from edgeprune.host.untrusted import faults_of
from edgeprune.verdict import Estimate

if TYPE_CHECKING:
    from edgeprune.formats.bundles.bundle import Bundle, BundledModel

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
    """A member of a bundle that may be a model and was not read, and why; `error` where that is no fault of its own."""

    path: str
    reason: str
    error: EdgepruneError | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sources:
    """What is behind one path; `notes` are sentences about the bundle as a whole, `error` why it was not read, or a
    member of it not, which is more than a refusal of that member."""

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
    brotli: bool = False,
    estimator: Estimator = no_estimates,
) -> Sources:
    """The models at `path`; `every`, `shares` and `brotli` as for `account`.

    `estimator` is called with each model that was read, also with those inside a bundle.

    Raises InputError, also for a bundle in which there is no model, Unsupported where a file cannot be read, and
    FileFault for what nobody foresaw.
    """
    with faults_of(path):
        if is_bundle(path):
            look = _Look(codecs=codecs, every=every, shares=shares, brotli=brotli, estimator=estimator)
            return _in_bundle(path, look)
        contents = read_contents(path)
        record = account(contents, codecs, shares=shares, brotli=brotli, every=every, estimates=estimator(contents))
        return Sources(models=(Source(record=record, contents=contents, file=path),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is asked of each model."""

    codecs: Sequence[str]
    every: bool
    shares: bool
    brotli: bool
    estimator: Estimator

    def source(self, bundle: Bundle, model: BundledModel, inner: Path) -> Source:
        """The model of a bundle, which lies at `inner` for the moment."""
        place = InArchive(
            archive=str(bundle.path),
            method=model.method,
            compressed_bytes=model.compressed_bytes,
            install_bytes=model.install_bytes,
            notes=model.notes,
        )
        name, contents = f"{bundle.path}!{model.name}", read_contents(inner)
        record = account(
            contents,
            self.codecs,
            shares=self.shares,
            brotli=self.brotli,
            every=self.every,
            path=name,
            in_archive=place,
        )
        return Source(record=replace(record, estimates=self.estimator(contents)), contents=contents, file=None)


def _in_bundle(path: Path, look: _Look) -> Sources:
    from edgeprune.formats.bundles.bundle import read_bundle

    bundle = read_bundle(path)
    if not bundle.models and not bundle.unreadable:
        raise InputError(f"{path}: no model in it; nothing to check")
    found = list(_models(bundle, look))
    unreadable = tuple(Refused(path=f"{path}!{item.name}", reason=item.reason) for item in bundle.unreadable)
    refused = unreadable + tuple(item for item in found if isinstance(item, Refused))
    return Sources(
        models=tuple(item for item in found if isinstance(item, Source)),
        refused=refused,
        notes=tuple(f"{path}: {note}" for note in bundle.notes),
        error=next((item.error for item in refused if item.error), None),
    )


def _models(bundle: Bundle, look: _Look) -> Iterator[Source | Refused]:
    """Each model, or why it is none."""
    from edgeprune.formats.bundles.bundle import extracted

    for model in bundle.models:
        name = f"{bundle.path}!{model.name}"
        inner = Path(name)
        try:
            with faults_of(name), extracted(bundle, model) as inner:
                found = look.source(bundle, model, inner)
        except EdgepruneError as cause:
            reason = str(cause).removeprefix(f"{name}: ").replace(str(inner), model.name)
            own = isinstance(cause, InputError | Unsupported)
            yield Refused(path=name, reason=reason, error=None if own else cause)
            continue
        yield found
