"""Mean average precision of detected boxes, as COCO defines it (Lin et al. 2014, arXiv:1405.0312): computed by the
package faster-coco-eval, a C++ edition of the reference code."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, MissingExtra, UsageError

__all__ = ["mean_average_precision"]

Array = npt.NDArray[Any]

BOX = 4  # left, top, right, bottom
NOTHING = -1  # the class of a target box that is none


def mean_average_precision(outputs: Mapping[str, Array], targets: Mapping[str, Array]) -> float:
    """AP at overlaps of 0.50 to 0.95, mean of the classes.

    Of the outputs one is boxes [samples, boxes, 4] (left, top, right, bottom, in any unit) or [samples, 4], another the
    scores of classes for each box [samples, boxes, classes] or [samples, classes]. The targets go by the same names:
    boxes [samples, objects, 4], classes [samples, objects], -1 where there is no object. Raises UsageError for outputs
    that are no such pair, InputError for targets, MissingExtra.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingExtra("faster-coco-eval", "detection", "the metric map")
    boxes_name, classes_name = _pair({name: values.shape for name, values in outputs.items()})
    for name in (boxes_name, classes_name):
        if name not in targets:
            raise InputError(
                f"the metric map needs targets of the outputs {boxes_name} and {classes_name}: no {name!r}"
            )
    boxes, scores = _listed(outputs[boxes_name], 3), _listed(outputs[classes_name], 3)
    true_boxes, classes = _listed(targets[boxes_name], 3), _listed(targets[classes_name], 2)
    if true_boxes.shape[:2] != classes.shape or true_boxes.shape[2:] != (BOX,):
        raise InputError(
            f"the metric map needs targets {boxes_name} [samples, objects, 4] and {classes_name} [samples, objects], "
            f"-1 for no object; got {targets[boxes_name].shape} and {targets[classes_name].shape}"
        )
    return _precision(boxes, scores, true_boxes, classes.astype(np.int64))


def _pair(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """The names of the boxes and of the scores of their classes."""
    found = [
        (boxes, scores)
        for boxes, shape in shapes.items()
        for scores, other in shapes.items()
        if shape[-1] == BOX and scores != boxes and len(shape) in (2, 3) and shape[:-1] == other[:-1]
    ]
    likely = [pair for pair in found if "box" in pair[0].lower()]
    chosen = found if len(found) == 1 else likely
    if len(chosen) != 1:
        told = ", ".join(f"{name} {list(shape[1:])}" for name, shape in shapes.items())
        raise UsageError(
            "map needs one output of boxes [..., 4] (with 'box' in its name where several could be it) and one of "
            f"scores of classes for the same boxes; the model has {told}"
        )
    return chosen[0]


def _listed(values: Array, axes: int) -> Array:
    """With an axis of boxes, where each sample has one."""
    return values[:, None] if values.ndim == axes - 1 else values


def _precision(boxes: Array, scores: Array, true_boxes: Array, classes: npt.NDArray[np.int64]) -> float:
    from faster_coco_eval import COCO, COCOeval_faster

    names = range(scores.shape[-1])
    there = np.argwhere(classes != NOTHING)
    if not len(there):
        return float("nan")
    objects = [
        {
            "id": number + 1,
            "image_id": int(n),
            "category_id": int(classes[n, k]),
            "bbox": _sized(true_boxes[n, k]),
            "area": float(np.prod(_sized(true_boxes[n, k])[2:])),
            "iscrowd": 0,
        }
        for number, (n, k) in enumerate(there)
    ]
    images = [{"id": n} for n in range(len(boxes))]
    labels, best = scores.argmax(-1), scores.max(-1)
    found = [
        {"image_id": n, "category_id": int(labels[n, k]), "bbox": _sized(boxes[n, k]), "score": float(best[n, k])}
        for n in range(boxes.shape[0])
        for k in range(boxes.shape[1])
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(
            {"images": images, "annotations": objects, "categories": [{"id": n, "name": str(n)} for n in names]}
        )
        judged = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox", print_function=lambda *_: None)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0])


def _sized(box: Array) -> list[float]:
    """Left, top, width, height."""
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, max(right - left, 0.0), max(bottom - top, 0.0)]
