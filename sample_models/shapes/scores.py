"""Metrics of the shapes sample that are its own: `edgeprune run` takes them with --trust-code."""

from __future__ import annotations

import numpy as np


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each frame with the true one, both [samples, (left, top, right, bottom)]."""
    low, high = np.maximum(boxes[:, :2], truth[:, :2]), np.minimum(boxes[:, 2:], truth[:, 2:])
    both = np.prod(np.maximum(high - low, 0), 1)
    areas = [np.prod(np.maximum(frame[:, 2:] - frame[:, :2], 0), 1) for frame in (boxes, truth)]
    return both / (areas[0] + areas[1] - both)


overlap.is_share = True
