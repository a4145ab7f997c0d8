"""`edgeprune pack`: the same .tflite file, smaller to download. Light imports only."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.commands.options import PATH, common_options, echo_json
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

__all__ = ["pack"]


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, help="NAME.tflite, or NAME.zip for an archive with the file in it.")
@click.option(
    "--into", type=PATH, metavar="ARCHIVE", help="The .apk, .aab, .ipa or .zip whose entry the file replaces."
)
@click.option("--entry", metavar="PATH", help="Which entry of it.  [default: the one with the file's name]")
@click.option(
    "--compress/--store", "compress", default=None, help="How the entry is written.  [default: as the archive has it]"
)
@click.option("--drop-metadata", is_flag=True, help="Leave out descriptions and what converters note.")
@click.option(
    "--drop-names", is_flag=True, help="Leave out names of inner tensors, not of inputs, outputs, signatures."
)
@click.option("--as-is", is_flag=True, help="Leave the file as it is, byte for byte; only the archive is made smaller.")
@click.option("--data", type=PATH, metavar="NPZ", help="Samples to compare outputs on.  [default: random ones]")
@common_options("overwrite", "json", "quiet")
def pack(
    file: Path,
    output: Path | None,
    into: Path | None,
    entry: str | None,
    compress: bool | None,
    drop_metadata: bool,
    drop_names: bool,
    as_is: bool,
    data: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write a .tflite FILE anew so that it is smaller to download, or put it into an archive by a better deflate.

    The file computes the same: constants lie together by type and size, equal ones are stored once, weights of -0.0
    become +0.0. Outputs before and after are compared bit by bit in every installed interpreter; without that nothing
    is written. In an archive the model is one deflate stream that any unzip reads, never longer than zlib's at level 9:
    each part is written by zlib, or with Huffman codes of its own, whichever is shorter.

    --into replaces an entry and leaves all others as they are, byte for byte and aligned as they were. A signature of
    the archive (APK, App Bundle, app of an .ipa) breaks, which is told: sign it again. An APK stores .tflite files so
    that they can be memory-mapped: that stays unless --compress asks for the smaller file.

    \b
    Examples:
      edgeprune pack model.tflite -o small.tflite
      edgeprune pack model.tflite --drop-names --drop-metadata -o model.zip
      edgeprune pack model.tflite --into app-release.apk -o app-unsigned.apk
    """
    from edgeprune.checker.packing.pack import pack as packed
    from edgeprune.checker.packing.records import ArchivePlace
    from edgeprune.formats.tflite.packed import PackOptions
    from edgeprune.host.progress import Progress
    from edgeprune.maker.training.data.npz import read_npz
    from edgeprune.report.pack_report import pack_text

    if as_is and (drop_metadata or drop_names or data is not None):
        raise UsageError("--as-is changes nothing in the file; leave out --drop-metadata, --drop-names and --data")
    if into is None and (entry is not None or compress is not None):
        raise UsageError("--entry, --compress and --store are about an entry of an archive; name it: --into app.apk")
    if output is None and (into is None or not overwrite):
        raise UsageError("where to? Add -o OUT, or with --into --overwrite to replace the archive itself")
    target = output or into
    assert target is not None
    progress = Progress(quiet=quiet)
    found = packed(
        file,
        target,
        options=None if as_is else PackOptions(drop_metadata=drop_metadata, drop_names=drop_names),
        into=ArchivePlace(archive=into, entry=entry, compress=compress) if into is not None else None,
        data=read_npz(data) if data is not None else None,
        overwrite=overwrite,
        on_step=progress.begin,
    )
    progress.end()
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo(pack_text(found))
    return 0
