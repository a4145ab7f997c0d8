"""`edgeprune init`: look at a folder, and write a recipe and budgets for what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import PATH, Trust, common_options, echo_json, taken
from edgeprune.commands.screens import Verb
from edgeprune.errors import EdgepruneError, InputError, UsageError

if TYPE_CHECKING:
    from edgeprune.checker.folder import Seen

__all__ = ["init"]

RECIPE = "recipe.toml"
_MOST_SHOWN = 12


@dataclass(slots=True, kw_only=True)
class _Done:
    """What came of it: files written with what is in them, files that were there already, what is left open."""

    written: dict[Path, str] = field(default_factory=dict)
    kept: list[Path] = field(default_factory=list)
    plan: tuple[str, ...] = ()
    open: list[str] = field(default_factory=list)
    errors: list[EdgepruneError] = field(default_factory=list)


@click.command(cls=Verb)
@click.argument("folder", type=PATH, default=Path())
@click.option("--overwrite", is_flag=True, help="Replace recipe.toml and edgeprune.toml that are there already.")
@common_options("json", "quiet", "trust", "custom")
def init(folder: Path, overwrite: bool, as_json: bool, quiet: bool, **options: Any) -> int:
    """Look at FOLDER (default: here) and write recipe.toml and edgeprune.toml for what is in it.

    Looks two folders down for Keras models (.keras, .h5), samples (named train, validation and test: .npz, .csv,
    .parquet, TFRecord files, folders of pictures), exported files (.tflite, .mlpackage, .onnx) and app bundles. The
    recipe is for the nearest model and is proved as 'run --dry-run' would (needs TensorFlow); the budgets are those of
    today and a tenth, which 'check' then holds. Nothing that is there is replaced without --overwrite. Exit code 4
    where there is nothing to see.

    \b
    Examples:
      edgeprune init
      edgeprune init app/ml --overwrite
    """
    from edgeprune.host.progress import Progress

    seen = _seen(folder)
    done = _Done()
    _write_recipe(seen, done, Progress(quiet=quiet), taken(Trust, options), overwrite=overwrite)
    _write_budgets(seen, done, overwrite=overwrite)
    if not done.written and done.errors:
        raise done.errors[0]
    if not done.written:
        there = " and ".join(map(str, done.kept)) or "what is here"
        raise UsageError(f"nothing was written: {there} stayed as it was; add --overwrite to replace it")
    if as_json:
        echo_json(_json(seen, done))
    else:
        from edgeprune.formats.contents import printable

        click.echo("\n".join(map(printable, _lines(seen, done))))  # names of files are anybody's
    return 0


def _seen(folder: Path) -> Seen:
    """Raises InputError for a folder that cannot be looked into, or in which there is nothing."""
    from edgeprune.checker.folder import look

    try:
        seen = look(folder)
    except OSError as cause:
        raise InputError(f"{folder}: cannot be looked into: {cause.strerror or cause}") from cause
    if not seen.models and not seen.ships:
        raise InputError(
            f"{folder.resolve()}: nothing to see: no Keras model (.keras, .h5), no exported file (.tflite, .mlpackage, "
            ".onnx) and no app bundle, here or two folders down; name another folder: edgeprune init FOLDER"
        )
    return seen


def _write_recipe(seen: Seen, done: _Done, progress: Any, trust: Trust, *, overwrite: bool) -> None:
    place = seen.folder / RECIPE
    if not seen.models:
        done.open.append("no Keras model was seen, so there is no recipe: budgets need none")
        return
    if not _is_free(place, done, overwrite=overwrite):
        return
    from edgeprune.host.outputs import write_file
    from edgeprune.maker.recipe.first_recipe import first_recipe

    try:
        first = first_recipe(seen, place, progress, trust_code=trust.trust_code, custom=trust.custom)
    except EdgepruneError as error:
        done.errors.append(error)
        done.open.append(f"no recipe was written: {error}")
        return
    write_file(place, first.text.encode())
    done.written[place] = "the whole job; edgeprune run --dry-run takes it"
    done.plan = first.plan
    done.open += first.open


def _write_budgets(seen: Seen, done: _Done, *, overwrite: bool) -> None:
    from edgeprune.checker.config import CONFIG, download_of, find_config, sample_config
    from edgeprune.host.outputs import write_file

    place = seen.folder / CONFIG
    files = [path for path in seen.ships if download_of(path) is not None]
    done.open += [f"{path}: cannot be read, so it has no budget" for path in seen.ships if path not in files]
    if not files:
        done.open.append("budgets of exported files: run the recipe, then edgeprune init again")
        return
    nearest = find_config(seen.folder.absolute())
    if nearest is not None and nearest != place.absolute():
        done.kept.append(nearest)
    elif _is_free(place, done, overwrite=overwrite):
        write_file(place, sample_config(seen.folder, files).encode())
        count = f"{len(files)} budget{'' if len(files) == 1 else 's'}"
        done.written[place] = f"{count}: the download of today and a tenth, counted; edgeprune check holds them"


def _is_free(place: Path, done: _Done, *, overwrite: bool) -> bool:
    """Whether a file may be written there; one that stays is noted."""
    import os

    if os.path.lexists(place) and not overwrite:
        done.kept.append(place)
        return False
    return True


def _lines(seen: Seen, done: _Done) -> Iterator[str]:
    rows = list(_rows(seen))
    width = max(len(name) for name, _ in rows)
    yield f"Seen in {seen.folder.resolve()}:"
    yield from (f"  {name:{width}}  {text}".rstrip() for name, text in rows[:_MOST_SHOWN])
    if len(rows) > _MOST_SHOWN:
        yield f"  and {len(rows) - _MOST_SHOWN} more"
    if done.plan:
        yield "The plan:"
        yield from (f"  {line}" for line in done.plan)
    yield "Written:"
    yield from (f"  {path}: {text}" for path, text in done.written.items())
    yield from (f"  {path} was there already and stays as it is (--overwrite)" for path in done.kept)
    if done.open:
        yield "Left open:"
        yield from (f"  {line}" for line in done.open)
    yield "Next:"
    yield from (f"  {line}" for line in _next(seen, done))


def _rows(seen: Seen) -> Iterator[tuple[str, str]]:
    """Each thing that was seen, and what it is taken for."""

    def name(path: Path) -> str:
        return path.relative_to(seen.folder).as_posix()

    yield from ((name(path), "Keras model") for path in seen.models)
    yield from ((name(path), f"samples: {split}") for split, path in seen.splits.items())
    yield from ((name(path), "samples, of no split by their name") for path in seen.samples)
    yield from ((name(path), "exported file") for path in seen.exported)
    yield from ((name(path), "app bundle") for path in seen.bundles)
    if not seen.whole:
        yield "...", "more files than are looked at: name a smaller folder"


def _next(seen: Seen, done: _Done) -> Iterator[str]:
    recipe, here = seen.folder / RECIPE, seen.folder.resolve() == Path.cwd()
    if recipe in done.written:
        yield f"edgeprune run {recipe} -o {seen.folder / 'out'}"
    if any(path != recipe for path in done.written):
        yield "edgeprune check" if here else f"cd {seen.folder} && edgeprune check"


def _json(seen: Seen, done: _Done) -> dict[str, object]:
    return {
        "schema_version": 1,
        "folder": str(seen.folder.resolve()),
        "seen": [{"path": name, "taken_for": text} for name, text in _rows(seen)],
        "written": [str(path) for path in done.written],
        "kept": [str(path) for path in done.kept],
        "plan": list(done.plan),
        "open": done.open,
    }
