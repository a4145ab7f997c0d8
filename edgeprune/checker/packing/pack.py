"""A .tflite file, packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeprune.artifact import SUFFIXES, Format
from edgeprune.checker.packing.archives import chosen_entry, write_into, write_new
from edgeprune.checker.packing.records import ArchivePlace, Compared, PackResult
from edgeprune.checker.packing.same_outputs import compare_outputs
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS, PACK_CODEC
from edgeprune.errors import UsageError
from edgeprune.formats.bundles.deflating import deflated
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.packed import Changes, PackOptions, array_edges, packed
from edgeprune.host.outputs import check_output_file, output_file
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import read_whole

__all__ = ["NEW_ARCHIVE", "pack"]

NEW_ARCHIVE = ".zip"
_USUAL = PackOptions()
_MODEL = SUFFIXES[Format.TFLITE]


def pack(
    path: str | Path,
    output: str | Path,
    *,
    options: PackOptions | None = _USUAL,
    into: ArchivePlace | None = None,
    data: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> PackResult:
    """Write the .tflite file `path`, packed, as `output`: a .tflite file, a new .zip with it, or the archive `into`
    with it in the place of an entry (`output` may be that archive, with `overwrite`). With `options` None the file goes
    in as it is, byte for byte; else its outputs before and after are compared on `data` (by input name, samples first),
    without which on random samples.

    Raises UsageError, InputError, Unsupported and OutputError, ConversionError where what was made computes or reads
    back otherwise, and what `compare_outputs` raises; then nothing is written.
    """
    path, output, step = Path(path), Path(output), on_step or (lambda _: None)
    if options is None and into is None and output.suffix != NEW_ARCHIVE:
        raise UsageError(f"{path}: as it is it would be copied; name an archive: -o NAME.zip, or --into app.apk")
    suffix = into.archive.suffix if into else output.suffix if output.suffix == NEW_ARCHIVE else _MODEL
    check_output_file(output, overwrite=overwrite, suffix=suffix)
    content = read_whole(path, "a .tflite file")
    old = chosen_entry(path.name, into) if into else None
    made, changes, compared = content, None, None
    if options is None:
        parse_tflite(path, content)
    else:
        step("write it anew and compare outputs")
        made, changes, compared = _rewritten(path, content, options, data)
    step("deflate")
    plain = CODECS[BASE_CODEC].compress(made)
    streams = {BASE_CODEC: plain, PACK_CODEC: deflated(made, plain, array_edges(made))}
    before = len(plain) if made == content else CODECS[BASE_CODEC].compressed_bytes(content)
    member = None
    with output_file(output, overwrite=overwrite) as place:
        if into is not None and old is not None:
            deflates = into.compress if into.compress is not None else old.method == "deflated"
            member = write_into(place, into, old, made, streams[PACK_CODEC] if deflates else None)
        elif output.suffix == NEW_ARCHIVE:
            member = write_new(place, path.name, made, streams[PACK_CODEC])
        else:
            place.write_bytes(made)
    return PackResult(
        path=path,
        output=output,
        raw_bytes=len(content),
        packed_raw_bytes=len(made),
        download_bytes={BASE_CODEC: before},
        packed_download_bytes={name: len(stream) for name, stream in streams.items()},
        changes=changes,
        compared=compared,
        member=member,
    )


def _rewritten(
    path: Path, content: bytes, options: PackOptions, data: Mapping[str, Any] | None
) -> tuple[bytes, Changes, Compared]:
    made, changes = packed(path, content, options)
    with scratch_folder() as scratch:
        trial = scratch / path.name
        trial.write_bytes(made)
        compared = compare_outputs(path, trial, parse_tflite(path, content)[0], data)
    return made, changes, compared
