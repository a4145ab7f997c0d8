"""How far off are the device profiles? By families left out of the fit, beside latency proportional to MACs.

    python benchmarks/latency_truth.py

Then width ratios (what pruning asks: how much faster is a narrower network), with the family left out, and rows that no
fit has seen: those held out, and those left out for a reason that the table of rows gives.
"""

from __future__ import annotations

import numpy as np
from fit_profiles import SPECS, Spec, derivation_of, fit_all, method_of, rows_of

from edgeprune.checker.latency.derivation import proportional_to_macs
from edgeprune.checker.latency.fitting import Row, left_out
from edgeprune.checker.latency.profiles import Profile
from edgeprune.report.table import Table, to_text

HEADS = (
    "profile",
    "n",
    "families",
    "median",
    "in 10 %",
    "in 20 %",
    "one out",
    "band",
    "MACs: median",
    "in 10 %",
    "in 20 %",
)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def line(spec: Spec, made: dict[str, Profile]) -> tuple[str, ...]:
    derivation, rows, _ = derivation_of(spec, made)
    found = derivation.accuracy
    truth = np.array([row.latency_ms for row in rows])
    macs = left_out(rows, proportional_to_macs, lambda row: row.family if found.families > 1 else row.name) / truth - 1
    return (
        f"{spec.name} ({found.left_out})",
        str(found.rows),
        str(found.families),
        *(percent(value) for value in (found.median, found.within_10, found.within_20, found.network_median)),
        f"x/{found.band_factor:.2f}",
        *(
            percent(float(value))
            for value in (np.median(abs(macs)), np.mean(abs(macs) <= 0.1), np.mean(abs(macs) <= 0.2))
        ),
    )


def width_of(name: str) -> tuple[str, float, str] | None:
    """("mobilenet_v1", 0.75, "224") of a network with a width multiplier."""
    parts = name.split()
    if parts[0] not in ("mobilenet_v1", "mobilenet_v2", "mnasnet"):
        return None
    return " ".join(parts[:-2]), float(parts[-2]), parts[-1]


def widths(rows: list[Row], predicted: np.ndarray) -> np.ndarray:
    """Relative errors of latency(width) / latency(1.0) at equal resolution."""
    at = {
        width_of(row.name): (row.latency_ms, ms) for row, ms in zip(rows, predicted, strict=True) if width_of(row.name)
    }
    errors = []
    for key, (truth, ms) in at.items():
        full = at.get((key[0], 1.0, key[2])) if key else None
        if key and full and key[1] != 1.0:
            errors.append(ms / full[1] / (truth / full[0]) - 1)
    return np.array(errors)


def main() -> None:
    made = fit_all()
    print(to_text(Table(heads=HEADS, rows=tuple(line(spec, made) for spec in SPECS))))
    print("\nlatency(width) / latency(1.0), family left out: median and largest error, and of MACs")
    for spec in SPECS:
        rows, _ = rows_of(spec)
        method = method_of(spec, made)
        found = widths(rows, left_out(rows, method.fit, lambda row: row.family))
        macs = widths(rows, np.array([float(sum(k.macs for k in row.kernels)) for row in rows]))
        if found.size and not spec.pool and len({row.family for row in rows}) > 1:
            numbers = (np.median(abs(found)), max(abs(found)), np.median(abs(macs)), max(abs(macs)))
            print(f"  {spec.name:40} n={found.size:2}  " + "  ".join(percent(float(value)) for value in numbers))
    for use in ("held out", "left out"):
        print(f"\nrows {use} of every fit")
        for spec in SPECS:
            unseen(spec, made, use)


def unseen(spec: Spec, made: dict[str, Profile], use: str) -> None:
    """Print the rows that no fit has seen beside what the profile predicts."""
    rows, _ = rows_of(spec, use)
    for row in rows:
        fit = method_of(spec, made).fit(rows_of(spec)[0])
        ms = float(fit.predict_ms([row])[0])
        off = 100 * (ms / row.latency_ms - 1)
        print(f"  {spec.name:30} {row.name:24} {row.latency_ms:7.1f} ms, predicted {ms:7.1f} ms ({off:+.1f} %)")


if __name__ == "__main__":
    main()
