"""Channel pruning of every model builder of keras.applications: how many groups, how much goes, how exact, how long.

Each model is built with random weights at its smallest legal input, its statistics are randomised, and 30 % of the
channels go (widths in multiples of 8). "max error" is the largest relative difference of the outputs (logits) from
those of the model with the removed channels set to zero; the target is 1e-4. Seconds are CPU time of tracing, planning
and surgery. Models of over 150 million parameters take long and much memory: name models to run only these.

    python benchmarks/coverage.py [MODEL ...]
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

from applications import built

from edgeprune.maker.keras.models import clone, keras_module
from edgeprune.maker.pruning.channel.importance import unit_scores
from edgeprune.maker.pruning.channel.plan import plan_channels
from edgeprune.maker.pruning.channel.pruner import analyse
from edgeprune.maker.pruning.channel.surgery import cut, zeroed
from edgeprune.maker.pruning.channel.verification import largest_error
from edgeprune.maker.pruning.options import ChannelOptions


def row(keras: Any, name: str) -> bool:
    """Print the line of one model; whether it is exact and something went."""
    model = built(keras, name)
    begun = time.process_time()
    structure = analyse(model)
    kept = plan_channels(structure, ChannelOptions(ratio=0.3), unit_scores(structure, "l2"))
    small = cut(structure, kept)
    seconds = time.process_time() - begun
    before, after = structure.whole(), structure.cost(kept)
    prunable = sum(group.reason is None for group in structure.groups)
    error = largest_error(zeroed(structure, kept, clone), small)
    ok = error <= 1e-4 and after.parameters < before.parameters and small.count_params() == after.parameters
    sizes = f"{before.parameters / 1e6:7.2f} {after.parameters / 1e6:7.2f}"
    sizes += f"  {before.macs / 1e6:9.1f} {after.macs / 1e6:9.1f}"
    groups = f"{len(structure.groups):4d} {prunable:4d}"
    print(f"{name:20s} {groups}  {sizes}  {error:.1e}  {seconds:6.2f}  {'ok' if ok else 'FAIL'}", flush=True)
    return ok


def main() -> None:
    keras = keras_module()
    everything = [name for name in dir(keras.applications) if name[0].isupper()]
    names = sys.argv[1:] or everything
    print("model                group prun  M param   after      M MACs     after  max error   CPU s")
    good = 0
    for name in names:
        good += row(keras, name)
        keras.backend.clear_session()
        gc.collect()
    print(f"{good} of {len(names)} exact and smaller")
    sys.exit(0 if good == len(names) else 1)


if __name__ == "__main__":
    main()
