"""Compare our ε with that of other accountants over a grid, as the table of docs/results.md.

    python benchmarks/accountant.py > table.md          # two minutes on one core

One row for each (sampling rate, noise multiplier σ, steps) of Poisson-subsampled Gaussian training at δ = 1e-5. "ours"
is ``imgsynth.privacy.accounting.epsilon``; the others are called with their own defaults (grid, orders, error). All are
upper bounds, so that the smallest is the best; "exact" is the closed form where every patient is in every step.
"""

from __future__ import annotations

import itertools
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from imgsynth.privacy.accounting import epsilon
from imgsynth.privacy.events import training_event

DELTA = 1e-5
RATES, SIGMAS, STEPS = (0.01, 0.05, 0.2, 1.0), (0.6, 1.0, 2.0, 8.0), (100, 1000, 10_000)
MANY = (0.01, 8.0, 1_000_000)
TOO_MUCH = 400.0  # RDP ε beyond which those that hold a loss distribution on a fixed grid run out of memory


def dp_accounting(kind: type[PLDAccountant] | type[RdpAccountant], rate: float, sigma: float, steps: int) -> float:
    return float(kind().compose(training_event(rate, sigma, steps)).get_epsilon(DELTA))


def opacus(kind: type[PRVAccountant] | type[RDPAccountant], rate: float, sigma: float, steps: int) -> float:
    accountant = kind()
    accountant.history = [(sigma, rate, steps)]
    return float(accountant.get_epsilon(DELTA))


def exact(sigma: float, steps: int) -> float:
    """Every patient in every step: one Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530, Theorem 8)."""
    mu = math.sqrt(steps) / sigma

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))) - DELTA

    return float(brentq(excess, 1e-9, mu**2 / 2 + 10 * mu + 10))


def cell(asked: Callable[[], float]) -> tuple[str, float]:
    """(what it says, seconds)."""
    began = time.perf_counter()
    try:
        said = f"{asked():.4g}"
    except (ValueError, RuntimeError, MemoryError) as error:
        said = type(error).__name__
    return said, time.perf_counter() - began


def row(rate: float, sigma: float, steps: int) -> list[str]:
    ours, seconds = cell(lambda: epsilon(training_event(rate, sigma, steps), DELTA))
    rdp, _ = cell(lambda: dp_accounting(RdpAccountant, rate, sigma, steps))
    small = float(rdp) <= TOO_MUCH
    pld, _ = cell(lambda: dp_accounting(PLDAccountant, rate, sigma, steps)) if small else ("–", 0.0)
    prv, _ = cell(lambda: opacus(PRVAccountant, rate, sigma, steps)) if small else ("–", 0.0)
    theirs, _ = cell(lambda: opacus(RDPAccountant, rate, sigma, steps))
    known = f"{exact(sigma, steps):.4g}" if rate == 1 else ""
    return [f"{rate:g}", f"{sigma:g}", f"{steps:,}", ours, pld, rdp, prv, theirs, known, f"{seconds:.2f}"]


def main() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of orders at the edge of their list: looser, and still valid
    columns = ("rate", "σ", "steps", "ours", "dp-accounting PLD", "dp-accounting RDP", "Opacus PRV", "Opacus RDP",
               "exact", "seconds (ours)")  # fmt: skip
    packages = ", ".join(f"{name} {version(name)}" for name in ("dp-accounting", "opacus", "numpy", "scipy"))
    print(f"Python {platform.python_version()}, {packages}.\n")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for point in [*itertools.product(RATES, SIGMAS, STEPS), MANY]:
        print("| " + " | ".join(row(*point)) + " |", flush=True)


if __name__ == "__main__":
    main()
