"""Code that loads a .tflite file: LiteRT for Android, Python and the web, TensorFlowLiteSwift for iOS.

The types that a runtime has are those of org.tensorflow.lite.DataType, of Tensor.DataType in TensorFlowLiteSwift (which
knows no int8) and of @litertjs/core 2.5.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from edgeprune.errors import Unsupported
from edgeprune.report.snippets.values import LITERALS, Value, indented, listing, swift_function

__all__ = ["js_code", "kotlin_code", "python_code", "swift_code"]

# Type -> (array, what puts one number {x} into a buffer, what gets one, bytes).
_KOTLIN: Mapping[str, tuple[str, str, str, int]] = {
    "bool": ("BooleanArray", "put((if ({x}) 1 else 0).toByte())", "get().toInt() != 0", 1),
    "float32": ("FloatArray", "putFloat({x})", "getFloat()", 4),
    "int16": ("ShortArray", "putShort({x})", "getShort()", 2),
    "int32": ("IntArray", "putInt({x})", "getInt()", 4),
    "int64": ("LongArray", "putLong({x})", "getLong()", 8),
    "int8": ("ByteArray", "put({x})", "get()", 1),
    "uint8": ("IntArray", "put({x}.toByte())", "get().toInt() and 0xFF", 1),
}
# The integers of a scaled tensor, from and to an Int.
_KOTLIN_INTS = {
    "int8": ("{x}.toByte()", "{x}.toInt()"),
    "int16": ("{x}.toShort()", "{x}.toInt()"),
    "uint8": ("{x}", "({x})"),
}
_SWIFT = {"bool": "Bool", "float32": "Float", "int16": "Int16", "int32": "Int32", "int64": "Int64", "uint8": "UInt8"}
_JS = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}
_NUMPY = (*_KOTLIN, "float16", "float64", "uint16", "uint32", "uint64")


def _check(values: Sequence[Value], known: Sequence[str], runtime: str) -> None:
    """Raises Unsupported for a type that the runtime has no tensors of."""
    for value in values:
        if value.dtype not in known:
            hint = "; convert with --io-type float32" if value.scale is not None else ""
            raise Unsupported(f"{runtime} has no {value.dtype} tensors (it has {', '.join(sorted(known))}){hint}")


def _told(what: str, number: int, value: Value, language: str) -> str:
    sign = "#" if language == "python" else "//"
    return f"{sign} {what} {number}, {LITERALS[language](value.name)}: {value.told}"


def python_code(file: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """With ai_edge_litert."""
    _check((*inputs, *outputs), _NUMPY, "this code")
    literal = LITERALS["python"]
    lines = [
        "# pip install ai-edge-litert numpy",
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "",
        f"interpreter = Interpreter(model_path={literal(file)})",
        "interpreter.allocate_tensors()",
        *(line for number, value in enumerate(inputs) for line in _python_input(number, value)),
        "",
        "interpreter.invoke()",
        *(line for number, value in enumerate(outputs) for line in _python_output(number, value)),
        "",
        f"results = {{{listing(f'{literal(v.name)}: output_{n}' for n, v in enumerate(outputs))}}}",
    ]
    return "\n".join(lines) + "\n"


def _python_input(number: int, value: Value) -> Iterator[str]:
    name, dtype = f"input_{number}", "np.bool_" if value.dtype == "bool" else f"np.{value.dtype}"
    shape = f"({listing(value.shape)}{',' if len(value.shape) == 1 else ''})"
    given = "np.float32" if value.scale is not None else dtype
    yield from ("", _told("Input", number, value, "python"), f"{name} = np.zeros({shape}, {given})  # your data")
    if value.scale is not None:
        low, high = value.bounds
        yield f"{name} = np.round({name} / {value.scale_text}) + {value.zero_point}"
        yield f"{name} = np.clip({name}, {low}, {high}).astype({dtype})"
    yield f'interpreter.set_tensor(interpreter.get_input_details()[{number}]["index"], {name})'


def _python_output(number: int, value: Value) -> Iterator[str]:
    name, place = f"output_{number}", f'interpreter.get_output_details()[{number}]["index"]'
    yield from ("", _told("Output", number, value, "python"), f"{name} = interpreter.get_tensor({place})")
    if value.scale is not None:
        yield f"{name} = ({name}.astype(np.float32) - {value.zero_point}) * {value.scale_text}"


def kotlin_code(file: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """With LiteRT's Interpreter on Android."""
    _check((*inputs, *outputs), tuple(_KOTLIN), "LiteRT's Interpreter")
    literal = LITERALS["kotlin"]
    given = listing(f"in{number}" for number in range(len(inputs)))
    taken = listing(f"{number} to out{number}" for number in range(len(outputs)))
    body = [
        f"val asset = context.assets.openFd({literal(file)})",
        "val model = FileInputStream(asset.fileDescriptor).channel",
        "    .map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)",
        "",
        *(line for number, value in enumerate(inputs) for line in _kotlin_input(number, value)),
        *(f"val out{number} = {_kotlin_buffer(value)}" for number, value in enumerate(outputs)),
        f"Interpreter(model).use {{ it.runForMultipleInputsOutputs(arrayOf<Any>({given}), mapOf<Int, Any>({taken})) }}",
        "",
        *(line for number, value in enumerate(outputs) for line in _kotlin_output(number, value)),
        f"return mapOf({listing(f'{literal(v.name)} to output{n}' for n, v in enumerate(outputs))})",
    ]
    lines = [
        '// build.gradle.kts: implementation("com.google.ai.edge.litert:litert:1.4.2"); file: src/main/assets',
        "import android.content.Context",
        "import java.io.FileInputStream",
        "import java.nio.ByteBuffer",
        "import java.nio.ByteOrder",
        "import java.nio.channels.FileChannel",
        *(["import kotlin.math.roundToInt"] if any(value.scale is not None for value in inputs) else []),
        "import org.tensorflow.lite.Interpreter",
        "",
        "fun runModel(context: Context): Map<String, Any> {",
        *indented(body),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _kotlin_buffer(value: Value) -> str:
    return f"ByteBuffer.allocateDirect({_KOTLIN[value.dtype][3] * value.elements}).order(ByteOrder.nativeOrder())"


def _kotlin_input(number: int, value: Value) -> Iterator[str]:
    kind, put, _, _ = _KOTLIN[value.dtype]
    stored = put.format(x="it")
    if value.scale is not None:
        low, high = value.bounds
        whole = f"((it / {value.scale_text}f).roundToInt() + {value.zero_point}).coerceIn({low}, {high})"
        kind, stored = "FloatArray", put.format(x=_KOTLIN_INTS[value.dtype][0].format(x=whole))
    yield _told("Input", number, value, "kotlin")
    yield f"val input{number} = {kind}({value.elements}) // your data, in this order"
    yield f"val in{number} = {_kotlin_buffer(value)}"
    yield f"input{number}.forEach {{ in{number}.{stored} }}"
    yield from (f"in{number}.rewind()", "")


def _kotlin_output(number: int, value: Value) -> Iterator[str]:
    kind, _, get, _ = _KOTLIN[value.dtype]
    read = f"out{number}.{get}"
    if value.scale is not None:
        whole = _KOTLIN_INTS[value.dtype][1].format(x=read)
        kind, read = "FloatArray", f"({whole} - {value.zero_point}) * {value.scale_text}f"
    yield _told("Output", number, value, "kotlin")
    yield f"out{number}.rewind()"
    yield f"val output{number} = {kind}({value.elements}) {{ {read} }}"


def swift_code(file: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """With TensorFlowLiteSwift on iOS."""
    _check((*inputs, *outputs), tuple(_SWIFT), "TensorFlowLiteSwift")
    literal = LITERALS["swift"]
    stem, _, suffix = file.rpartition(".")
    body = [
        f"guard let path = Bundle.main.path(forResource: {literal(stem)}, ofType: {literal(suffix)}) else {{",
        "    throw CocoaError(.fileNoSuchFile)",
        "}",
        "let interpreter = try Interpreter(modelPath: path)",
        "try interpreter.allocateTensors()",
        *(line for number, value in enumerate(inputs) for line in _swift_input(number, value)),
        "",
        "try interpreter.invoke()",
        *(line for number, value in enumerate(outputs) for line in _swift_output(number, value)),
        "",
        f"return [{listing(f'{literal(v.name)}: output{n}' for n, v in enumerate(outputs)) or ':'}]",
    ]
    where = '// Podfile: pod "TensorFlowLiteSwift"; the file stands in the app target'
    return swift_function([where, "import Foundation", "import TensorFlowLite"], body)


def _swift_input(number: int, value: Value) -> Iterator[str]:
    kind, given = _SWIFT[value.dtype] if value.scale is None else "Float", f"input{number}"
    zero = "false" if kind == "Bool" else "0"
    yield from ("", _told("Input", number, value, "swift"))
    yield f"let {given} = [{kind}](repeating: {zero}, count: {value.elements})  // your data, in this order"
    if value.scale is not None:
        whole = f"Int(($0 / {value.scale_text}).rounded()) + {value.zero_point}"
        yield f"let integers{number} = {given}.map {{ {_SWIFT[value.dtype]}(clamping: {whole}) }}"
        given = f"integers{number}"
    yield f"try interpreter.copy({given}.withUnsafeBytes {{ Data($0) }}, toInputAt: {number})"


def _swift_output(number: int, value: Value) -> Iterator[str]:
    kind = _SWIFT[value.dtype]
    meaning = f".map {{ (Float($0) - {value.zero_point}) * {value.scale_text} }}" if value.scale is not None else ""
    yield from ("", _told("Output", number, value, "swift"))
    yield f"let data{number} = try interpreter.output(at: {number}).data"
    yield f"let output{number} = data{number}.withUnsafeBytes {{ [{kind}]($0.bindMemory(to: {kind}.self)) }}{meaning}"


def js_code(file: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """With LiteRT.js in a browser."""
    _check((*inputs, *outputs), tuple(_JS), "LiteRT.js")
    literal = LITERALS["js"]
    address = literal("./" + quote(file, errors="replace"))  # not "data:x.tflite", which would be an address of its own
    given = listing(f"input{number}" for number in range(len(inputs)))
    lines = [
        "// npm install @litertjs/core; serve its folder wasm/ and the file beside the page",
        'import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";',
        "",
        'await loadLiteRt("./wasm/");',
        f'const model = await loadAndCompile(new URL({address}, document.baseURI), {{ accelerator: "wasm" }});',
        *(line for number, value in enumerate(inputs) for line in _js_input(number, value)),
        "",
        f"const outputs = await model.run([{given}]);",
        *(line for number, value in enumerate(outputs) for line in _js_output(number, value)),
        "",
        f"const results = new Map([{listing(f'[{literal(v.name)}, output{n}]' for n, v in enumerate(outputs))}]);",
        f"for (const tensor of [{given}, ...outputs]) tensor.delete();",
    ]
    return "\n".join(lines) + "\n"


def _js_input(number: int, value: Value) -> Iterator[str]:
    kind, given = _JS[value.dtype] if value.scale is None else "Float32Array", f"data{number}"
    yield from ("", _told("Input", number, value, "js"))
    yield f"const {given} = new {kind}({value.elements}); // your data, in this order"
    if value.scale is not None:
        low, high = value.bounds
        whole = f"Math.round(x / {value.scale_text}) + {value.zero_point}"
        given = f"{_JS[value.dtype]}.from({given}, (x) => Math.min({high}, Math.max({low}, {whole})))"
    yield f"const input{number} = new Tensor({given}, [{listing(value.shape)}]);"


def _js_output(number: int, value: Value) -> Iterator[str]:
    read = f"await outputs[{number}].data()"
    if value.scale is not None:
        read = f"Float32Array.from({read}, (x) => (x - {value.zero_point}) * {value.scale_text})"
    yield from ("", _told("Output", number, value, "js"), f"const output{number} = {read};")
