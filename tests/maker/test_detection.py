"""Mean average precision against a reference that is written out here."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import InputError, MissingExtra, UsageError
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.metrics import METRICS

MAP = METRICS["map"]


def overlap(box: Any, other: Any) -> float:
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / (float(np.prod(box[2:] - box[:2])) + float(np.prod(other[2:] - other[:2])) - both)


def reference(boxes: Any, scores: Any, truth: Any, classes: Any) -> float:
    """COCO's definition: greedy matches by score, 101 recalls, ten overlaps, mean of the classes that are there."""
    found = []
    for kind in sorted(set(classes[classes >= 0].tolist())):
        total = int((classes == kind).sum())
        for least in np.arange(0.5, 1.0, 0.05):
            told = [
                (float(scores[n, k].max()), n, boxes[n, k])
                for n in range(len(boxes))
                for k in range(boxes.shape[1])
                if scores[n, k].argmax() == kind
            ]
            hits, taken = [], set()
            for _, n, box in sorted(told, key=lambda item: -item[0]):
                free = [
                    (overlap(box, truth[n, m]), m) for m in np.flatnonzero(classes[n] == kind) if (n, m) not in taken
                ]
                best = max(free, default=(0.0, -1))
                hits.append(best[0] >= least - 1e-10)
                taken |= {(n, best[1])} if hits[-1] else set()
            right = np.cumsum(hits)
            recalls, precisions = right / total, right / np.arange(1, len(hits) + 1)
            best_after = np.maximum.accumulate(precisions[::-1])[::-1] if len(hits) else np.array([])
            places = np.searchsorted(recalls, np.linspace(0, 1, 101), side="left")
            found.append(np.mean([best_after[p] if p < len(best_after) else 0.0 for p in places]))
    return float(np.mean(found))


def scenes(seed: int) -> dict[str, Any]:
    """Objects, and boxes near some of them."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (12, 3, 2))
    truth = np.concatenate([low, low + rng.uniform(5, 40, low.shape)], -1)
    classes = rng.integers(-1, 3, (12, 3))
    boxes = truth[:, [0, 1, 2, 0]] + rng.normal(0, 2.5, (12, 4, 4))
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    return {"boxes": boxes, "scores": rng.dirichlet(np.ones(3), (12, 4)), "truth": truth, "classes": classes}


@pytest.mark.parametrize("seed", range(4))
def test_it_is_cocos(seed: int) -> None:
    """The figure of the reference; objects that are none (-1) do not count."""
    made = scenes(seed)
    value = MAP.compute(
        {"kind": made["scores"], "boxes": made["boxes"]}, {"boxes": made["truth"], "kind": made["classes"]}
    )
    assert value == pytest.approx(reference(**made), abs=2e-3)
    assert 0.01 < value < 0.9


def test_one_box_a_sample() -> None:
    """A model that frames one object; right boxes and classes score 1, wrong classes nothing."""
    rng = np.random.default_rng(0)
    box = np.concatenate([rng.random((6, 2)), 1 + rng.random((6, 2))], 1)
    kinds = np.arange(6) % 3
    told = {"box": box, "kind": kinds}
    assert MAP.compute({"box": box, "kind": np.eye(3)[kinds]}, told) == 1
    assert MAP.compute({"box": box, "kind": np.eye(3)[(kinds + 1) % 3]}, told) == 0


def test_what_it_is_not_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are no pair, targets that are missing, no object at all, the package that is not there."""
    made = scenes(1)
    outputs = {"boxes": made["boxes"], "kind": made["scores"]}
    told = {"boxes": made["truth"], "kind": made["classes"]}
    with pytest.raises(UsageError, match=r"map needs one output of boxes \[..., 4\].*the model has kind \[4, 3\]"):
        MAP.compute({"kind": made["scores"]}, told)
    with pytest.raises(InputError, match="no 'kind'"):
        MAP.compute(outputs, {"boxes": made["truth"]})
    with pytest.raises(InputError, match=r"needs targets boxes \[samples, objects, 4\]"):
        MAP.compute(outputs, {**told, "kind": made["classes"][:, :2]})
    with pytest.raises(InputError, match="the targets have none"):
        MAP.compute(outputs, {**told, "kind": np.full((12, 3), -1)})
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"edgeprune\[detection\]"):
        MAP.compute(outputs, told)


def test_it_takes_the_whole_model() -> None:
    """Its name stands alone; the boxes' own metric goes by the output."""
    import keras

    x = keras.Input((3,), name="x")
    box, kind = keras.layers.Dense(4, name="box")(x), keras.layers.Dense(3, activation="softmax", name="kind")(x)
    model = keras.Model(x, {"box": box, "kind": kind})
    task = find_task(model, {"": "map", "box": "mae"})
    assert [(score.name, score.output) for score in task.scores] == [("map", None), ("box_mae", "box")]
    with pytest.raises(UsageError, match="map takes several outputs: write it without the name of one"):
        find_task(model, {"box": "map"})
