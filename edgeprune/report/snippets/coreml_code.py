"""Code that loads a Core ML model: Core ML in Swift, coremltools in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgeprune.errors import Unsupported
from edgeprune.formats.coreml.mil import Feature
from edgeprune.report.snippets.values import LITERALS, listing, swift_function

__all__ = ["COMPUTE_UNITS", "python_code", "swift_code"]

# Members of MLComputeUnits -> the names that coremltools has for them.
COMPUTE_UNITS: Mapping[str, str] = {
    "all": "ALL",
    "cpuAndGPU": "CPU_AND_GPU",
    "cpuAndNeuralEngine": "CPU_AND_NE",
    "cpuOnly": "CPU_ONLY",
}

_ARRAYS: Mapping[str, str] = {"float16": "float16", "float32": "float32", "float64": "double", "int32": "int32"}
# Another kind of input -> what stands for one in Swift and in Python.
_NUMBERS: Mapping[str, tuple[str, str]] = {
    "double": ("double: 0", "0.0"),
    "int64": ("int64: 0", "0"),
    "string": ('string: ""', '""'),
}
_RESULTS: Mapping[str, str] = {
    "array": "multiArrayValue",
    "dictionary": "dictionaryValue",
    "double": "doubleValue",
    "image": "imageBufferValue",
    "int64": "int64Value",
    "string": "stringValue",
}
# Colours of an image -> pixels of a CVPixelBuffer, and a mode of Pillow.
_PIXELS: Mapping[str, tuple[str, str]] = {
    "BGR": ("kCVPixelFormatType_32BGRA", "RGB"),
    "GRAYSCALE": ("kCVPixelFormatType_OneComponent8", "L"),
    "GRAYSCALE_FLOAT16": ("kCVPixelFormatType_OneComponent16Half", "F"),
    "RGB": ("kCVPixelFormatType_32BGRA", "RGB"),
}


def _check(features: Sequence[Feature], given: Sequence[str]) -> None:
    """Raises Unsupported for what no code is written for: `given` are kinds beside arrays and images."""
    if len({feature.name for feature in features}) < len(features):
        raise Unsupported("two inputs or outputs have one name, so that no code can tell them apart")
    for feature in features:
        known = feature.kind in given
        if feature.kind == "array":
            known = feature.dtype in _ARRAYS and (bool(feature.shape) or "dictionary" in given)
        elif feature.kind == "image":
            known = feature.color in _PIXELS
        if not known:
            raise Unsupported(f"there is no code for an input or output that is {_told(feature)}")


def _told(feature: Feature) -> str:
    """Type and shape; the shape of an image is its height and width."""
    if feature.kind == "image":
        return f"image {feature.color}, {'x'.join(map(str, reversed(feature.shape)))} (width x height)"
    if feature.kind == "array":
        return f"array of {feature.dtype}, {'x'.join(map(str, feature.shape)) or 'no shape told'}"
    return feature.kind


def python_code(file: str, inputs: Sequence[Feature], outputs: Sequence[Feature], units: str | None = None) -> str:
    """With coremltools; models run on a Mac only. `units` are some of COMPUTE_UNITS."""
    _check(inputs, tuple(_NUMBERS))
    _check(outputs, tuple(_RESULTS))
    literal = LITERALS["python"]
    load = "CompiledMLModel" if file.endswith(".mlmodelc") else "MLModel"
    chosen = f", compute_units=ct.ComputeUnit.{COMPUTE_UNITS[units]}" if units else ""
    pictures = any(feature.kind == "image" for feature in inputs)
    lines = [
        f"# pip install coremltools numpy{' pillow' if pictures else ''}; predict works on a Mac only",
        "import coremltools as ct",
        "import numpy as np",
        *(["from PIL import Image"] if pictures else []),
        "",
        f"model = ct.models.{load}({literal(file)}{chosen})",
        "inputs = {",
        *(f"    {literal(f.name)}: {_python_input(f)},  # {_told(f)}; your data" for f in inputs),
        "}",
        "results = model.predict(inputs)",
        *(f"output_{n} = results[{literal(f.name)}]  # {_told(f)}" for n, f in enumerate(outputs)),
    ]
    return "\n".join(lines) + "\n"


def _python_input(feature: Feature) -> str:
    if feature.kind == "image":
        return f'Image.new("{_PIXELS[feature.color][1]}", ({listing(reversed(feature.shape))}))'
    if feature.kind == "array":
        return f"np.zeros(({listing(feature.shape)}{',' if len(feature.shape) == 1 else ''}), np.{feature.dtype})"
    return _NUMBERS[feature.kind][1]


def swift_code(file: str, inputs: Sequence[Feature], outputs: Sequence[Feature], units: str | None = None) -> str:
    """With Core ML; Xcode compiles a package or .mlmodel of the app target to a .mlmodelc. `units` are some of
    COMPUTE_UNITS."""
    _check(inputs, tuple(_NUMBERS))
    _check(outputs, tuple(_RESULTS))
    literal = LITERALS["swift"]
    given = listing(f"{literal(feature.name)}: input{number}" for number, feature in enumerate(inputs)) or ":"
    body = [
        f"let name = {literal(file.rpartition('.')[0])}",
        'guard let url = Bundle.main.url(forResource: name, withExtension: "mlmodelc") else {',
        "    throw CocoaError(.fileNoSuchFile)",
        "}",
        *(["let configuration = MLModelConfiguration()", f"configuration.computeUnits = .{units}"] if units else []),
        f"let model = try MLModel(contentsOf: url{', configuration: configuration' if units else ''})",
        *(line for number, feature in enumerate(inputs) for line in _swift_input(number, feature)),
        "",
        f"let inputs = try MLDictionaryFeatureProvider(dictionary: [{given}])",
        "let outputs = try model.prediction(from: inputs)",
        *(line for number, feature in enumerate(outputs) for line in _swift_output(number, feature)),
        "",
        f"return [{listing(f'{literal(f.name)}: output{n} as Any' for n, f in enumerate(outputs)) or ':'}]",
    ]
    where = "// The model stands in the app target, where Xcode compiles it to a .mlmodelc"
    return swift_function([where, "import CoreML", "import CoreVideo"], body)


def _swift_input(number: int, feature: Feature) -> Iterator[str]:
    yield from ("", f"// Input {LITERALS['swift'](feature.name)}: {_told(feature)}")
    if feature.kind == "image":
        yield f'let picture{number} = URL(fileURLWithPath: "photo.jpg")  // your picture'
        yield f"let input{number} = try MLFeatureValue("
        yield f"    imageAt: picture{number}, pixelsWide: {feature.shape[1]}, pixelsHigh: {feature.shape[0]},"
        yield f"    pixelFormatType: {_PIXELS[feature.color][0]}, options: nil)"
    elif feature.kind == "array":
        kind = f"dataType: .{_ARRAYS[feature.dtype]}"
        yield f"let array{number} = try MLMultiArray(shape: [{listing(feature.shape)}], {kind})  // your data"
        yield f"let input{number} = MLFeatureValue(multiArray: array{number})"
    else:
        yield f"let input{number} = MLFeatureValue({_NUMBERS[feature.kind][0]})  // your data"


def _swift_output(number: int, feature: Feature) -> Iterator[str]:
    name = LITERALS["swift"](feature.name)
    yield from ("", f"// Output {name}: {_told(feature)}")
    yield f"let output{number} = outputs.featureValue(for: {name})?.{_RESULTS[feature.kind]}"
