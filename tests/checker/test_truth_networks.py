"""The networks behind the device profiles are the real ones, and the profiles are what the fit gives."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from places import ROOT

from edgeprune.checker.latency.kernels import Kernel, kernels_of
from edgeprune.checker.latency.profiles import dump_profile, find_profile, profile_paths
from edgeprune.formats import read_graph

BENCHMARKS = ROOT / "benchmarks"
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    """benchmarks/truth_networks.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import truth_networks
    finally:
        sys.path.remove(str(BENCHMARKS))
    module: ModuleType = truth_networks
    return module


@pytest.fixture(scope="module")
def fitting(networks: ModuleType) -> ModuleType:
    """benchmarks/fit_profiles.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import fit_profiles
    finally:
        sys.path.remove(str(BENCHMARKS))
    module: ModuleType = fit_profiles
    return module


# Millions of MACs and of parameters as published: the papers, their repositories, and torchvision's table.
PUBLISHED = {
    "mobilenet_v1 1.0 224": (568.7, 4.24),
    "mobilenet_v2 1.0 224": (300.8, 3.51),
    "mobilenet_v3 large 1.0 224": (216.6, 5.48),
    "mobilenet_v3 small 1.0 224": (56.5, 2.54),
    "mnasnet A1 1.0 224": (311.6, 3.9),
    "mnasnet B1 1.0 224": (314.4, 4.38),
    "efficientnet 1.0 1.0 224": (386, 5.29),
    "inception_v3 299": (5713, 23.8),
    "inception_v4 299": (12270, 42.7),
    "resnet18 224": (1814, 11.69),
    "resnet50 224": (4089, 25.56),
    "resnet101 224": (7801, 44.55),
    "wide_resnet50 224": (11398, 68.88),
    "resnext50 224": (4230, 25.03),
    "resnext101 224": (16414, 88.79),
    "densenet121 224": (2834, 7.98),
    "squeezenet 1.1 224": (349, 1.235),
    "shufflenet_v2 224": (145, 2.28),
    "googlenet 224": (1498, 6.62),
    "nasnet_large 331": (23800, 88.9),
    "nasnet_mobile 224": (564, 5.3),
    "regnet_x_3_2gf 224": (3176, 15.3),
    "regnet_y_800mf 224": (834, 6.43),
    "mobileone s0 224": (275, 2.1),
    "mobileone s4 224": (2978, 14.8),
    "fastvit sa36 256": (5600, 31.5),
    "efficientformer l3 224": (3900, 31.3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_and_parameters_are_the_published_ones(networks: ModuleType, name: str) -> None:
    """Within 1 % of the published MACs and 2 % of the parameters (normalizations are folded here)."""
    kernels = networks.network(name).kernels
    macs, parameters = sum(k.macs for k in kernels) / 1e6, sum(k.weights for k in kernels) / 1e6
    assert macs == pytest.approx(PUBLISHED[name][0], rel=0.01)
    assert parameters == pytest.approx(PUBLISHED[name][1], rel=0.02)


def test_a_published_file_has_the_operations_of_its_network(networks: ModuleType) -> None:
    """MobileNetV1 0.25 at 224 pixels as TensorFlow published it: the same kernels one by one, but for the ends."""
    folder = SHARED / "imagenet_models"
    if not folder.is_dir():
        pytest.skip("the models are not here")
    found = kernels_of(read_graph(next(folder.glob("*quant.tflite"))))
    file = [item for item in found if isinstance(item, Kernel) and item.macs]
    written = [item for item in networks.network("mobilenet_v1 0.25 224").kernels if item.macs]
    assert len(file) == len(written) == 28
    for mine, theirs in zip(written, file, strict=True):
        assert (mine.op, mine.kind, mine.macs) == (theirs.op, theirs.kind, theirs.macs)
        assert (mine.read, mine.written, mine.gathered) == (theirs.read, theirs.written, theirs.gathered)
        assert mine.weights == theirs.weights


def test_every_row_has_a_source_and_a_network(networks: ModuleType) -> None:
    """A row that is left out says why; one that is held out is in no profile."""
    rows = networks.truth_rows()
    assert len(rows) > 300
    for row in rows:
        assert "@" in row["source"]
        assert ":" in row["source"]
        assert float(row["latency_ms"]) > 0
        assert row["use"] in ("fit", "held out") or row["use"].startswith("left out: ")
        assert row["network"] == "" or networks.network(row["network"]).kernels
        assert row["network"] or row["use"].startswith("left out")


def test_profiles_are_what_the_fit_gives(fitting: ModuleType) -> None:
    """Refitted from the rows, three small profiles are the same bytes; the others: fit_profiles.py --check."""
    specs = {spec.name: spec for spec in fitting.SPECS}
    assert sorted(specs) == sorted(profile_paths())
    made = {name: find_profile(name) for name in specs}
    for name in ("iphone-xs-tflite-2t-float32", "pixel-xnnpack-1t-float32", "pixel3-tflite-4t-int8"):
        again = dump_profile(fitting.profile_of(specs[name], made))
        assert again == profile_paths()[name].read_text(encoding="utf-8")


def test_rows_never_fitted_are_predicted(fitting: ModuleType) -> None:
    """Five published rows that no fit has seen are predicted within 7 %."""
    errors = {}
    for spec in fitting.SPECS:
        profile = find_profile(spec.name)
        for row in fitting.rows_of(spec, "held out")[0]:
            from edgeprune.checker.latency.estimate import breakdown_of

            found = breakdown_of(list(row.kernels), profile).estimate
            assert found.total_ms is not None
            errors[row.name, spec.precision] = abs(found.total_ms / row.latency_ms - 1)
    assert len(errors) == 5
    assert max(errors.values()) < 0.07
