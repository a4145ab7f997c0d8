"""What a .tflite file tells the app beside the model, read and written.

TensorFlow Lite Metadata, which the Task Library, ML Kit and MediaPipe Tasks read: tables in a buffer of the model
(`metadata_tables`, `embedding`) and a zip of files behind it (`associated`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.formats.graph import Graph
from edgeprune.formats.metadata import ImageInput, MetadataOptions, check_ends, labelled_output, settled
from edgeprune.formats.tflite.associated import find_appended, read_files, with_files
from edgeprune.formats.tflite.embedding import embedded, metadata_place
from edgeprune.formats.tflite.flatbuffer import Buffers, parse_tflite
from edgeprune.formats.tflite.metadata_tables import BrokenMetadataError, Tables, pack_tables, unpack_tables
from edgeprune.host.untrusted import read_whole

__all__ = ["End", "Metadata", "ends_of", "read_metadata", "with_metadata"]

_LABELS = "labels.txt"
_AXIS_LABELS, _NORMALIZATION = "TENSOR_AXIS_LABELS", "NormalizationOptions"
_OLDEST_PARSER = "1.0.0"  # reads all that is written here (metadata_schema.fbs, "History")
_ENDS = ("input_tensor_metadata", "output_tensor_metadata")


class End(NamedTuple):
    """An input or output of the model: its name there, shape and element."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a .tflite file tells: `tables` as the schema names them, None where there are none, and files by name.

    `inputs` and `outputs` are those of the model, in the order of the file. `complete` is False where the tables are of
    a newer schema than is known here, and hold more.
    """

    path: Path
    tables: Tables | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    inputs: tuple[End, ...] = ()
    outputs: tuple[End, ...] = ()
    complete: bool = True


def read_metadata(path: str | Path) -> Metadata:
    """What the .tflite file at `path` tells the app. Raises InputError for what is missing or broken."""
    place = Path(path)
    content = read_whole(place, "a .tflite file")
    return _read(place, *parse_tflite(place, content))


def _read(path: Path, graph: Graph, buffers: Buffers) -> Metadata:
    place = metadata_place(buffers)
    tables, complete = None, True
    if place is not None:
        try:
            tables, complete = unpack_tables(buffers.content[place[0] : sum(place)])
        except BrokenMetadataError as cause:
            raise InputError(f"{path}: its metadata are broken: {cause}; --replace writes new ones") from cause
    files = read_files(path, buffers.content, find_appended(buffers))
    inputs, outputs = ends_of(graph)
    return Metadata(path=path, tables=tables, files=files, inputs=inputs, outputs=outputs, complete=complete)


def ends_of(graph: Graph) -> tuple[tuple[End, ...], tuple[End, ...]]:
    """Inputs and outputs in the order of the file, under the names that its signature gives them."""
    named = next((signature for signature in graph.signatures if signature.subgraph == 0), None)

    def ends(indices: Sequence[int], places: Sequence[int], names: Sequence[str]) -> tuple[End, ...]:
        known, tensors = dict(zip(places, names, strict=True)), graph.tensors
        return tuple(End(known.get(i, tensors[i].name), tensors[i].shape, tensors[i].dtype) for i in indices)

    return (
        ends(graph.inputs, named.input_tensors if named else (), named.inputs if named else ()),
        ends(graph.outputs, named.output_tensors if named else (), named.outputs if named else ()),
    )


def with_metadata(path: Path, content: bytes, options: MetadataOptions, *, replaced: bool = False) -> bytes:
    """The .tflite file `content`, called `path` in messages, which tells what `options` say beside what it tells
    already, or in its place where `replaced`. The model in it stays as it is, byte for byte.

    Raises UsageError for what does not fit the model, InputError for a broken file, Unsupported for one that cannot
    change without a loss.
    """
    graph, buffers = parse_tflite(path, content)
    known = _kept(path, graph, buffers, replaced=replaced)
    options = settled(options, [end.name for end in known.inputs])
    specs = {end.name: (end.shape, end.dtype) for end in known.inputs}
    check_ends(specs, {end.name: end.shape for end in known.outputs}, options, integers=True)
    tables, files = _told(known, options)
    appended = find_appended(buffers)
    try:
        made = embedded(content[: appended.begin] if appended else content, buffers, pack_tables(tables))
    except Unsupported as cause:
        raise Unsupported(f"{path}: {cause}") from cause
    made = with_files(made, files)
    again, now = parse_tflite(path, made)
    if again != graph or _read(path, again, now).files != files:
        raise InputError(f"{path}: its metadata and its model share bytes; it is broken, make it again")
    return made


def _kept(path: Path, graph: Graph, buffers: Buffers, *, replaced: bool) -> Metadata:
    """What stays of what the file tells."""
    if replaced:
        inputs, outputs = ends_of(graph)
        return Metadata(path=path, inputs=inputs, outputs=outputs)
    known = _read(path, graph, buffers)
    if not known.complete:
        raise Unsupported(
            f"{path}: its metadata are of a schema newer than 1.5.0, and what is not known here would be lost; "
            "--replace writes new ones"
        )
    return known


def _told(known: Metadata, options: MetadataOptions) -> tuple[Tables, dict[str, bytes]]:
    """Tables and files with what the options say."""
    tables, files = copy.deepcopy(known.tables or {}), dict(known.files)
    for key in ("name", "description", "version", "author", "license"):
        if getattr(options, key):
            tables[key] = getattr(options, key)
    tables.setdefault("min_parser_version", _OLDEST_PARSER)
    graphs = tables.setdefault("subgraph_metadata", [])
    if not graphs:
        graphs.append({})
    inputs, outputs = (
        _tensors(known.path, graphs[0], key, ends)
        for key, ends in zip(_ENDS, (known.inputs, known.outputs), strict=True)
    )
    _name(inputs, options.input_names, options.input_descriptions, "input")
    _name(outputs, options.output_names, options.output_descriptions, "output")
    if options.image is not None:
        number = [end.name for end in known.inputs].index(options.image.name)
        _describe_pictures(inputs[number], options.image, known.inputs[number].dtype)
    if options.class_labels:
        ends = {end.name: end.shape for end in known.outputs}
        number = list(ends).index(labelled_output(ends, options.class_labels))
        _label(outputs[number], options.class_labels, files)
    return tables, files


def _tensors(path: Path, graph: Tables, key: str, ends: Sequence[End]) -> list[Tables]:
    """The tables of all inputs or outputs, made where there are none."""
    told: list[Tables] = graph.setdefault(key, [])
    if not told:
        told += [{"name": end.name, "content": _content("FeatureProperties")} for end in ends]
    if len(told) != len(ends):
        raise InputError(
            f"{path}: its metadata describe {len(told)} {key.split('_')[0]}s and the model has {len(ends)}; "
            "--replace writes new ones"
        )
    return told


def _content(kind: str, **fields: Any) -> Tables:
    return {"content_properties_type": kind, "content_properties": fields}


def _name(tensors: list[Tables], names: Sequence[str], descriptions: Sequence[str], end: str) -> None:
    for key, texts in (("name", names), ("description", descriptions)):
        if len(texts) > len(tensors):
            names = ", ".join(str(tensor.get("name")) for tensor in tensors)
            raise UsageError(f"--{end}-{key} is given {len(texts)} times and the model's {end}s are: {names}")
        for tensor, text in zip(tensors, texts, strict=False):
            if text:
                tensor[key] = text


def _describe_pictures(tensor: Tables, image: ImageInput, dtype: str) -> None:
    """Content, normalisation and range of an input that takes pictures."""
    content = tensor.setdefault("content", {})
    size = content.get("content_properties", {}).get("default_size")
    content |= _content("ImageProperties", color_space=str(image.color), **({"default_size": size} if size else {}))
    units = [unit for unit in tensor.get("process_units", []) if unit.get("options_type") != _NORMALIZATION]
    options = {"mean": list(image.mean), "std": list(image.std)}  # readers want as many of one as of the other
    tensor["process_units"] = [{"options_type": _NORMALIZATION, "options": options}, *units]
    if dtype.startswith("float"):
        ends = [sorted((bias, 255 * scale + bias)) for scale, bias in image.channels]
        tensor["stats"] = {"max": [high for _, high in ends], "min": [low for low, _ in ends]}
    elif dtype == "uint8":
        tensor["stats"] = {"max": [255.0], "min": [0.0]}


def _label(output: Tables, labels: Sequence[str], files: dict[str, bytes]) -> None:
    """Name the classes of an output, in the file that its labels have already where it has one."""
    told_files = output.setdefault("associated_files", [])
    # Labels in other languages (a locale) stay.
    entry = next((f for f in told_files if f.get("type") == _AXIS_LABELS and not f.get("locale")), None)
    if entry is None:
        entry = {"name": _LABELS, "type": _AXIS_LABELS}
        told_files.append(entry)
    output.setdefault("content", _content("FeatureProperties"))
    files[entry.setdefault("name", _LABELS)] = "".join(f"{label}\n" for label in labels).encode()
