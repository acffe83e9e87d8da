"""Published numbers of audits, those of benchmarks/audit_golden.py that take no time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "audit_golden.py"
    spec = importlib.util.spec_from_file_location("audit_golden", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("shift", "steinke", "fdp"), [(1, 1.13346, 2.164749), (2, 2.311945, 4.7218075), (4, 4.395568, 9.133752), (0, 0, 0)]
)
def test_shifted_normals_of_jax_privacy_to_six_digits(
    golden: ModuleType, shift: int, steinke: float, fdp: float
) -> None:
    assert golden.shifted_normals(shift) == pytest.approx((steinke, fdp), rel=1e-6)


@pytest.mark.parametrize(("sigma", "theory", "steinke", "fdp"), [(0.5, 9.99, 4.99, 8.16), (1.0, 4.37, 2.61, 3.61)])
def test_table_of_mahloujifar_within_tolerance(
    golden: ModuleType, sigma: float, theory: float, steinke: float, fdp: float
) -> None:
    found = golden.idealised(sigma, 10**5)
    assert found[0] == pytest.approx(theory, rel=2e-3)
    assert found[1] == pytest.approx(steinke, rel=0.03)
    assert 0.88 * fdp < found[2] < fdp


@pytest.mark.parametrize(("each", "published"), [(1, 0.49), (8, 0.62)])
def test_simulated_white_box_of_keinan(golden: ModuleType, each: int, published: float) -> None:
    """Their mean is ± 0.01; ours, over 150 audits, about ± 0.03 (1.96 standard errors)."""
    bounds = golden.white_box(each, 150, np.random.default_rng(7))
    error = np.hypot(bounds.std(ddof=1) / np.sqrt(150), 0.01)
    assert bounds.mean() == pytest.approx(published, abs=2.6 * error)
