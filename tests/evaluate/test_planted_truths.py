"""Each planted fault moves the metrics that are about it, and leaves others alone: handwritten zeros and ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from imgsynth.audit.copies import find_copies
from imgsynth.evaluate.metric import Comparison
from imgsynth.evaluate.run import metrics_for
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig
from imgsynth.types import Grid

ALL = frozenset({
    "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "ms_ssim",
    "intensity_wasserstein", "noise_power_spectrum",
})  # fmt: skip
MOVED: dict[str, tuple[set[str], set[str]]] = {  # what a fault must move beyond the floor, and what it must leave
    "none: other patients": (set(), set(ALL)),
    "blur of 0.8 voxels": (
        {"frechet_distance", "kernel_distance", "recall", "density", "coverage", "noise_power_spectrum"}, {"ms_ssim"},
    ),
    "noise, 5 % of the window": ({"noise_power_spectrum", "density"}, {"frechet_distance", "recall", "ms_ssim"}),
    "checkerboard, 5 %": ({"noise_power_spectrum"}, {"recall", "coverage", "ms_ssim"}),
    "intensities up by 3 %": ({"intensity_wasserstein"}, set(ALL) - {"intensity_wasserstein"}),
    "one class's images lost": (
        {"frechet_distance", "kernel_distance", "recall", "coverage"}, {"precision", "density"},
    ),
    "mode collapse to 20 images": ({"frechet_distance", "recall", "coverage"}, {"precision", "density"}),
    "copies of train patients": (set(), set(ALL)),
}  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "planted_truths.py"
    spec = importlib.util.spec_from_file_location("planted_truths", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def people(digits: Images) -> list[Images]:
    """Train, test and other patients."""
    two = digits.select(digits.y_N < 2)
    return [two.select(np.arange(i * 120, (i + 1) * 120)) for i in range(3)]


def test_the_table_has_every_fault(planted: Any) -> None:
    assert set(MOVED) == set(planted.FAULTS)


@pytest.mark.parametrize("fault", list(MOVED), ids=lambda fault: fault.split(":")[0].replace(" ", "-"))
def test_a_fault_moves_its_metrics_and_no_others(fault: str, planted: Any, people: list[Images]) -> None:
    train, test, others = people
    made = planted.FAULTS[fault](others, train, np.random.default_rng(1))
    synthetic = synthetic_images(made.x_NC, made.y_N)
    grid = Grid((16, 16), (1.0, 1.0), "PL", "CT", "HU", -1000.0, 1000.0)
    c = Comparison(train, test, synthetic, get_encoder("random_conv", 2, 0), grid, 100, 0)
    moved = {name for name, metric in metrics_for(c).items() if planted.mark(metric(c)) == "●"}
    must, must_not = MOVED[fault]
    assert set(metrics_for(c)) == ALL and must <= moved and not moved & must_not, moved
    share = find_copies(synthetic, train, test, AuditConfig())["share"]  # copies are what the audit is for
    assert share > 0.9 if fault.startswith("copies") else share < 0.7
