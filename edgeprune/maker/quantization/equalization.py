"""Channels of alike size, so that one scale for a whole kernel or tensor suits all of them: cross-layer equalization.

Nagel et al. 2019 (arXiv:1906.04721): what a channel is divided by, its reader multiplies by; between them a positive
factor passes ReLU. ReLU6 it passes only below 6. Channels that stay below are moved up to there at most. One that
reaches 6 is left alone, unless its kernel is many times as large as the others': then the network uses its two ends
(at 153 or at 20 the answer is 6), it is made less steep, and its reader takes the factor that brings it nearest to what
it was on samples. Channels that do not vary by half a step of 8 bits of their own get kernels of zeros, and what
they hold as a constant: their kernels are often the largest, for batch normalization divided them by nothing.

Batch normalization is folded into kernels first, and stays as one that multiplies by 1 and has the statistics of what
it reads now: training steps then have the size of the kernels that ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeprune.errors import Unsupported
from edgeprune.ledger import EqualizeReport
from edgeprune.maker.keras.graphs import functional_of
from edgeprune.maker.keras.models import clone, refresh
from edgeprune.maker.keras.types import Layer, Model, Node, Tensor
from edgeprune.maker.pruning.channel.observe import play, sample_batches
from edgeprune.maker.quantization.chains import Chain, channels_made, find_chains, kernel_of, largest_by
from edgeprune.maker.training.data.samples import Samples

__all__ = ["equalize"]

SWEEPS = 10  # over all chains; each changes what its neighbours see
OUTLIER = 3.0  # times the median of its layer: a channel that reaches its cap is made less steep above that
MARGIN = 1.2  # times the largest number seen: room that a channel keeps below its cap
STILL = 0.5  # steps of 8 bits between 0 and the largest number of a channel
ROWS = 40_000  # places of a map that are looked at
STEPS = 255.0

Floats = npt.NDArray[np.float64]


def equalize(model: Model, samples: Samples, *, seed: int = 0) -> tuple[Model, EqualizeReport]:
    """A copy of a model with its channels equalized, and what was done; the samples tell how large they get.

    Raises Unsupported for a model that is no graph of layers or has nothing to equalize.
    """
    made = clone(model)
    chains = find_chains(made)
    if not chains:
        raise Unsupported(
            f"{model.name}: nothing to equalize: no convolution or Dense layer feeds one other through ReLU alone"
        )
    before = _spread(chains)
    for layer, norm in {id(c.made): (c.made, c.norm) for c in chains if c.norm is not None}.values():
        _scale(layer, norm, _factor(norm), keep_shift=True)
    work = _Equalization(chains, _values_seen(made, chains, samples, seed))
    work.run()
    refresh(made)
    return made, EqualizeReport(
        layers=len(chains),
        channels=sum(len(channel.factor) for channel in work.links),
        still=sum(int(channel.still.sum()) for channel in work.links),
        flattened=sum(int((channel.saturates & (channel.factor > 1)).sum()) for channel in work.links),
        spread_before=before,
        spread_after=_spread(chains),
    )


def _spread(chains: Sequence[Chain]) -> float:
    """The largest folded number of a channel against the median of its layer's channels, in the worst layer."""
    worst = 1.0
    for chain in chains:
        largest = largest_by(np.asarray(kernel_of(chain.made), np.float64), channels_made(chain.made))
        if chain.norm is not None:
            largest = largest * np.abs(_factor(chain.norm))
        if (largest > 0).any():
            worst = max(worst, float(largest.max() / np.median(largest[largest > 0])))
    return worst


# --- Batch normalization ---------------------------------------------------------------------------------------------


def _factor(norm: Layer) -> Floats:
    """What a batch normalization multiplies each channel by."""
    variance = np.asarray(norm.moving_variance, np.float64)
    return np.asarray(np.asarray(norm.gamma, np.float64) / np.sqrt(variance + norm.epsilon))


def _scale(layer: Layer, norm: Layer | None, factor: Floats, *, keep_shift: bool = False) -> None:
    """Multiply what a layer makes by a factor for each channel, in its kernel; so is what the normalization behind it
    adds, unless that stays. The normalization then multiplies by 1."""
    _along(layer, channels_made(layer), factor)
    if layer.use_bias:
        layer.bias.assign(np.asarray(layer.bias, np.float64) * factor)
    if norm is None:
        return
    norm.moving_mean.assign(np.asarray(norm.moving_mean, np.float64) * factor)
    norm.moving_variance.assign(np.asarray(norm.moving_variance, np.float64) * factor**2)
    _pass_on(norm)
    if not keep_shift:
        norm.beta.assign(np.asarray(norm.beta, np.float64) * factor)


def _along(layer: Layer, axis: int, factor: Floats) -> None:
    kernel = kernel_of(layer)
    shape = [1] * len(kernel.shape)
    shape[axis] = -1
    kernel.assign(np.asarray(kernel, np.float64) * factor.reshape(shape))


def _pass_on(norm: Layer) -> None:
    """A normalization that multiplies by 1, whatever the variance of what it reads."""
    norm.gamma.assign(np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon))


# --- Channels --------------------------------------------------------------------------------------------------------


def _values_seen(model: Model, chains: Sequence[Chain], samples: Samples, seed: int) -> list[Floats]:
    """What the activation of each chain reads, float [places, channels]: places drawn at random, and of each batch the
    least and the largest number of each channel."""
    rng, wanted = np.random.default_rng(seed), {id(chain.seen): number for number, chain in enumerate(chains)}
    drawn: list[list[Floats]] = [[] for _ in chains]
    batches = list(sample_batches(model, samples))
    each = max(1, ROWS // len(batches))

    def seen(node: Node, _inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        number = wanted.get(id(node.operation))
        if number is not None:
            values = np.asarray(outputs[0], np.float64)
            rows = values.reshape(-1, values.shape[-1])
            some = rows if len(rows) <= each else rows[rng.integers(0, len(rows), each)]
            drawn[number] += [some, rows.min(0, keepdims=True), rows.max(0, keepdims=True)]

    for batch in batches:
        play(functional_of(model), batch, seen)
    return [np.concatenate(rows) for rows in drawn]


@dataclass(kw_only=True, eq=False)
class _Link:
    """What is known of the channels of one chain, and what is done: they are divided by `factor`, their reader
    multiplies by `answer`."""

    chain: Chain
    values: Floats
    still: npt.NDArray[np.bool_] = field(init=False)
    saturates: npt.NDArray[np.bool_] = field(init=False)
    factor: Floats = field(init=False)
    answer: Floats = field(init=False)

    def __post_init__(self) -> None:
        made = self.activated(self.values)
        varies = made.max(0) - made.min(0)
        held = bool(self.chain.norm is not None or self.chain.made.use_bias)
        self.still = held & (varies <= STILL * np.abs(made).max(0) / STEPS)
        self.saturates = self.values.max(0) > self.chain.cap
        self.factor, self.answer = np.ones(len(varies)), np.ones(len(varies))

    def activated(self, values: Floats) -> Floats:
        """What the chain's activation makes."""
        return np.clip(values, 0.0 if self.chain.rectified else None, self.chain.cap)

    def choose(self, makes: Floats, reads: Floats) -> None:
        """The factors for the largest number of each channel's kernel and of what its reader has for it."""
        alive = (makes > 0) & (reads > 0) & ~self.still
        if not alive.any():
            return
        own, other = makes / np.median(makes[alive]), reads / np.median(reads[alive])
        wanted = np.sqrt(np.divide(own, other, out=np.ones_like(own), where=alive))
        room = np.clip(self.values.max(0) * MARGIN / self.chain.cap, 1e-3, 1.0)
        steep = np.maximum(own / OUTLIER, 1.0)
        self.factor = np.where(alive, np.where(self.saturates, steep, np.maximum(wanted, room)), 1.0)
        flat = self.activated(self.values / self.factor)
        fit = (self.activated(self.values) * flat).sum(0) / np.maximum((flat * flat).sum(0), 1e-30)
        self.answer = np.where(self.saturates & alive, fit, self.factor)


class _Equalization:
    """The search over all chains of a model whose normalizations are folded, and the change in place."""

    def __init__(self, chains: Sequence[Chain], values: Sequence[Floats]) -> None:
        self.links = [_Link(chain=chain, values=seen) for chain, seen in zip(chains, values, strict=True)]
        for link in self.links:
            _hold(link)
        self.making = {id(link.chain.made): link for link in self.links}
        self.reading = {id(link.chain.reads): link for link in self.links}
        layers = [layer for chain in chains for layer in (chain.made, chain.reads)]
        self.kernels = {id(layer): np.abs(np.asarray(kernel_of(layer), np.float64)) for layer in layers}

    def run(self) -> None:
        """Find the factors, and multiply by them."""
        for _ in range(SWEEPS):
            for link in self.links:
                made, reads = link.chain.made, link.chain.reads
                link.choose(
                    largest_by(self._now(made, without=link), channels_made(made)),
                    largest_by(self._now(reads, without=link), len(kernel_of(reads).shape) - 2),
                )
        for link in self.links:
            _scale(link.chain.made, link.chain.norm, 1 / link.factor)
            _along(link.chain.reads, len(kernel_of(link.chain.reads).shape) - 2, link.answer)

    def _now(self, layer: Layer, *, without: _Link) -> Floats:
        """The magnitudes of a kernel with the factors so far, those of one link left out."""
        values: Floats = self.kernels[id(layer)]
        before, behind = self.reading.get(id(layer)), self.making.get(id(layer))
        if before is not None and before is not without:
            values = values * before.answer[:, None]
        if behind is not None and behind is not without:
            values = values / (behind.factor[:, None] if channels_made(layer) == values.ndim - 2 else behind.factor)
        return values


def _hold(link: _Link) -> None:
    """Channels that do not vary get a kernel of zeros, and what they hold as a shift."""
    made, norm, still = link.chain.made, link.chain.norm, link.still
    held = np.median(link.values, axis=0)
    _along(made, channels_made(made), np.where(still, 0.0, 1.0))
    if norm is None:
        if made.use_bias:
            made.bias.assign(np.where(still, held, np.asarray(made.bias)))
        return
    if made.use_bias:
        made.bias.assign(np.where(still, 0.0, np.asarray(made.bias)))
    for weight in (norm.moving_mean, norm.moving_variance):
        weight.assign(np.where(still, 0.0, np.asarray(weight)))
    norm.beta.assign(np.where(still, held, np.asarray(norm.beta)))
    _pass_on(norm)
