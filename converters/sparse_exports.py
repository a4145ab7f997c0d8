"""A file that was just converted, for sparse kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune.artifact import Precision
from edgeprune.checker.sparse_kernels.options import SparseOptions
from edgeprune.checker.sparse_kernels.proof import SAMPLES, Arrays
from edgeprune.checker.sparse_kernels.rewrites import make_eligible
from edgeprune.checker.sparse_kernels.sparse_file import float_graph, with_sparse_kernels
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.session import Exported
from edgeprune.converters.spending import rewritten
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import SparseKernels
from edgeprune.maker.training.data.columns import taken
from edgeprune.maker.training.data.loading import InputSpecs
from edgeprune.maker.training.data.samples import Samples

__all__ = ["check_eligible", "few_inputs", "sparse_export"]


def few_inputs(samples: Samples | None, specs: InputSpecs) -> Arrays | None:
    """The first SAMPLES of some samples by input name; None without any."""
    if samples is None:
        return None
    some = slice(min(SAMPLES, len(samples)))
    return {name: np.asarray(taken(samples.inputs[name], some, dtype)) for name, (_, dtype) in specs.items()}


def check_eligible(path: Path) -> None:
    """Raise IneligibleError where the model of a float .tflite file cannot run sparse, however many zeros it has."""
    make_eligible(float_graph(path, read_whole(path, "a .tflite file")))


def sparse_export(
    made: Exported, app: AppOptions, inputs: Arrays | None
) -> tuple[Exported, SparseKernels, tuple[str, ...]]:
    """(A converted float file, now for sparse kernels; what was done; what is to be said of it).

    Raises as `with_sparse_kernels`, which proves it on `inputs`.
    """
    options = SparseOptions(precision=Precision(made.precision))
    found = with_sparse_kernels(made.path, made.path.read_bytes(), options, inputs=inputs)
    return rewritten(made, found.content, app), found.report, found.notes
