"""Pages of runs: what a finished run left is read, and becomes one file of HTML and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import EdgepruneError, InputError, UsageError

if TYPE_CHECKING:
    from edgeprune.checker.size.records import FileAccount
    from edgeprune.host.progress import Progress
    from edgeprune.ledger import ArtifactEntry, Ledger
    from edgeprune.report.html.page import Page
    from edgeprune.report.html.run_page import RunFiles

__all__ = [
    "is_small",
    "page_of_folder",
    "page_of_run",
    "report_page",
    "write_node_data",
    "write_page",
    "write_pictures",
]

BROTLI_MOST_BYTES = 2_000_000
_SEARCH = "search.json"


def is_small(path: Path) -> bool:
    """Whether a file's layers are counted by brotli too, which takes two seconds a megabyte."""
    from edgeprune.artifact import files_of

    try:
        return sum(file.stat().st_size for file in files_of(path)) <= BROTLI_MOST_BYTES
    except OSError:
        return False


def report_page(ledger: str | Path, files: Sequence[str | Path] = ()) -> str:
    """The page of a finished run as HTML, in one text that needs nothing else: `ledger` is its ledger.json, `files` are
    model files to look into in place of those of the run (one, or an earlier one and a later one), and the JSON that
    `shrink`, `sensitivity` and `blame` leave."""
    from edgeprune.host.progress import Progress
    from edgeprune.report.html.page import page_html

    return page_html(page_of_run(Path(ledger), [Path(file) for file in files], Progress(quiet=True))[0])


def page_of_run(path: Path, files: Sequence[Path], progress: Progress) -> tuple[Page, RunFiles]:
    """The page of the run whose ledger lies at `path`, and what it was made from. Raises InputError and Unsupported for
    files that cannot be read, UsageError for too many of them."""
    from edgeprune.host.untrusted import read_whole
    from edgeprune.ledger import Ledger
    from edgeprune.report.html.run_page import run_page

    place = path / "ledger.json" if path.is_dir() else path
    ledger = Ledger.from_json(read_whole(place, "the ledger.json of a run"), str(place))
    found = _results([file for file in files if file.suffix.lower() == ".json"], place.parent / _SEARCH)
    models = [file for file in files if file.suffix.lower() != ".json"]
    if len(models) > 2:
        raise UsageError(f"{models[2]}: the page shows one model file, or an earlier and a later one; name fewer")
    progress.begin("count bytes by layer")
    if models:
        accounts = [_account(model, str(model), brotli=model is models[-1]) for model in models]
        found = replace(found, after=accounts[-1], before=accounts[0] if len(accounts) > 1 else None)
    else:
        found = _of_run(ledger, place.parent, found)
    progress.end()
    return run_page(ledger, found), found


def page_of_folder(ledger: Ledger, folder: Path, progress: Progress) -> Page:
    """The page of a run that just left `folder`."""
    from edgeprune.report.html.run_page import run_page

    progress.begin("draw report.html")
    search = folder / _SEARCH
    found = _of_run(ledger, folder, _results([], search))
    progress.end()
    return run_page(ledger, found)


def _of_run(ledger: Ledger, folder: Path, found: RunFiles) -> RunFiles:
    """The file that stands for what ships beside the dense one, as far as they are there and the run's own."""
    from edgeprune.report.html.run_page import shipped

    accounts: list[FileAccount | None] = []
    notes: list[str] = []
    for entry in (shipped(ledger), ledger.dense.main):
        try:
            brotli = not accounts  # of what is drawn; the other is only compared with
            accounts.append(None if entry is None else _own_account(entry, folder, brotli=brotli))
        except EdgepruneError as cause:
            accounts.append(None)
            notes.append(f"Bytes by layer: {' '.join(str(cause).split())}.")
    return replace(found, after=accounts[0], before=accounts[1], notes=tuple(notes))


def _own_account(entry: ArtifactEntry, folder: Path, *, brotli: bool) -> FileAccount:
    """The account of a file of the run, under its name there. Raises InputError for one that is not there, or another
    by now."""
    from edgeprune.artifact import sha256_of
    from edgeprune.host.untrusted import real_place

    place = folder / entry.path
    if not real_place(place).is_relative_to(real_place(folder)):
        raise InputError(f"{entry.path} does not lie beside the ledger, so it is not read")
    if not place.exists():
        raise InputError(f"{entry.path} is not beside the ledger, so its layers are not known")
    if sha256_of(place) != entry.sha256:
        raise InputError(f"{entry.path} is not the file of the run any more (another SHA-256), so it is not shown")
    return _account(place, entry.path, brotli=brotli)


def _account(path: Path, name: str, *, brotli: bool) -> FileAccount:
    """A file layer by layer, by brotli too where that is quick."""
    from edgeprune.checker.size.account import account
    from edgeprune.checker.size.codecs import with_quick
    from edgeprune.formats import read_contents
    from edgeprune.host.untrusted import faults_of

    with faults_of(path):
        contents, small = read_contents(path), brotli and is_small(path)
        return account(contents, with_quick(["brotli"] if small else []), brotli=small, path=name)


def _results(files: Sequence[Path], search: Path) -> RunFiles:
    """The results of other verbs by what they hold; a search that lies beside the ledger is one of them."""
    from edgeprune.report.html.run_page import RunFiles

    found = RunFiles()
    for file in files:
        found = _with_result(found, file)
    return _with_result(found, search) if found.search is None and search.is_file() else found


def _with_result(found: RunFiles, path: Path) -> RunFiles:
    from edgeprune.host.json_values import decode, record_of
    from edgeprune.host.untrusted import read_whole
    from edgeprune.ledger import Blame
    from edgeprune.points import SearchReport, Sensitivity

    what = f"{path} is not the JSON of shrink, sensitivity or blame"
    raw = decode(read_whole(path, "a JSON result"), str(path))
    if not isinstance(raw, Mapping):
        raise InputError(f"{what}; leave it out")
    if "points" in raw:
        return replace(found, search=SearchReport.from_json(raw, str(path)))
    if "stack" in raw:
        return replace(found, blame=record_of(Blame, raw, what))
    if "layers" in raw and "how" in raw:
        return replace(found, sensitivity=record_of(Sensitivity, raw, what))
    raise InputError(f"{what}; leave it out")


def write_page(page: Page, path: Path) -> None:
    """Write a page as a file of HTML, in the place of one that stands there."""
    from edgeprune.host.outputs import write_file
    from edgeprune.report.html.page import page_html

    write_file(path, page_html(page).encode())


def write_pictures(page: Page, folder: Path) -> list[Path]:
    """Write each picture of a page as an SVG file into a folder, which is made where it is not there; the paths."""
    from edgeprune.errors import OutputError
    from edgeprune.host.outputs import write_file
    from edgeprune.report.html.page import picture_svg

    try:
        folder.mkdir(exist_ok=True)
    except OSError as cause:
        raise OutputError(f"{folder}: cannot be made: {cause.strerror or cause}") from cause
    paths = []
    for picture in page.pictures:
        paths.append(folder / f"{picture.name}.svg")
        write_file(paths[-1], picture_svg(picture).encode())
    return paths


def write_node_data(model: Path, path: Path) -> None:
    """Write the bytes of each operation of a .tflite file for Model Explorer. Raises UsageError for another format."""
    from edgeprune.artifact import Format
    from edgeprune.checker.size.account import account
    from edgeprune.formats import read_contents
    from edgeprune.host.outputs import write_file
    from edgeprune.host.untrusted import faults_of
    from edgeprune.report.model_explorer import node_data

    with faults_of(model):
        contents = read_contents(model)
        if contents.format != Format.TFLITE:
            raise UsageError(f"{model}: node data for Model Explorer are made of .tflite files; name one")
        write_file(path, node_data(account(contents, bounds=False, every=True)).encode())
