"""A converter's long complaint as one line: what it cannot do, and what to type next."""

from __future__ import annotations

import re

from edgeprune.converters.file_checks import FALLBACK_ADVICE

__all__ = ["one_line"]

_LENGTH = 300


def one_line(kind: str, reason: str, precision: str = "") -> str:
    """The cause named where it is known, else the telling line of the complaint."""
    if kind == "ConversionError":  # a line of our own
        return reason
    unknown = re.search(r"(?:TF Select|Custom) ops: ([\w, ]+)", reason)
    if unknown:
        return f"TFLite has no operation for {unknown.group(1).strip()} in any precision: replace it in the model"
    no_kernel = dict.fromkeys(re.findall(r"Quantization to 16x8-bit not yet supported for op: '(\w+)'", reason))
    if no_kernel:
        return (
            f"TFLite has no {precision} kernel for {', '.join(no_kernel)}: leave these in float with "
            f"{FALLBACK_ADVICE}, or use --precision int8 or dynamic"
        )
    whole = re.search(r"Max and min for dynamic tensors .* Failed for tensor (?:serving_default_)?([^\s:]+)", reason)
    if whole:
        return (
            f"{precision} cannot quantize the arithmetic on whole numbers that reads {whole.group(1)!r} (a mask of "
            "padding, a comparison): use --precision int8 or dynamic"
        )
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    telling = next((line for line in lines if "error:" in line or "not " in line), lines[0] if lines else kind)
    return telling[:_LENGTH] if telling.startswith(kind) else f"{kind}: {telling[:_LENGTH]}"
