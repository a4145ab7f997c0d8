"""Peak memory of `edgeprune run` on the Fashion sample: the largest process of the run, in MB (ru_maxrss)."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).resolve().parent.parent / "sample_models" / "fashion" / "recipe.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        command = [sys.executable, "-P", "-m", "edgeprune", "run", str(RECIPE), "-o", f"{place}/out", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    largest_mb = used.ru_maxrss * 1024 / 1e6  # kilobytes on Linux
    print(f"peak memory of the largest process: {largest_mb:.0f} MB")
    print(f"CPU {used.ru_utime + used.ru_stime:.0f} s, wall {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
