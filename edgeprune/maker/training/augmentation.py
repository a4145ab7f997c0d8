"""Vary training images, so that few samples teach more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.errors import UsageError

__all__ = ["Augmenter"]


class Augmenter:
    """Varies the image inputs of a batch, [batch, height, width, channels]; the seed decides how.

    Images are mirrored left to right at random (`flip`) and moved by up to `shift` pixels, their edges repeated.
    """

    def __init__(self, input_shapes: Sequence[tuple[int | None, ...]], *, flip: bool, shift: int, seed: int) -> None:
        self._flip, self._shift = flip, shift
        self._rng = np.random.default_rng([seed, 1])
        self._images = [len(shape) == 4 for shape in input_shapes] if flip or shift else []
        if self._images and not any(self._images):
            raise UsageError("flip and shift vary images, and no input of this model has the shape of one")
        sizes = [s for shape, image in zip(input_shapes, self._images, strict=False) if image for s in shape[1:3]]
        if any(size is not None and size <= shift for size in sizes):
            raise UsageError(f"shift = {shift} moves the whole image out of sight")

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """New arrays for the image inputs, the same ones for the others."""
        if not self._images:
            return list(inputs)
        return [self._varied(a) if image else a for a, image in zip(inputs, self._images, strict=True)]

    def _varied(self, images: np.ndarray) -> np.ndarray:
        count, height, width, _ = images.shape
        if self._flip:
            images = np.where(self._rng.random(count)[:, None, None, None] < 0.5, images[:, :, ::-1], images)
        if self._shift:
            margin = (self._shift, self._shift)
            padded = np.pad(images, ((0, 0), margin, margin, (0, 0)), mode="edge")
            moved = self._rng.integers(0, 2 * self._shift + 1, (count, 2))
            rows = (moved[:, :1] + np.arange(height))[:, :, None]
            columns = (moved[:, 1:] + np.arange(width))[:, None, :]
            images = padded[np.arange(count)[:, None, None], rows, columns]
        return images
