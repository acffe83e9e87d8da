"""Published audit numbers beside ours, as the table of docs/audit/statistics.md.

    python benchmarks/audit_golden.py                   # half a minute on one core
    python benchmarks/audit_golden.py --audits 1000 --seed 1

Exact ones are functions of counts and must agree to all printed digits; simulated ones agree within their intervals.
A part of them is a test, tests/golden/test_audit.py.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from imgsynth.audit.epsilon import ceiling
from imgsynth.audit.fdp import excess_at
from imgsynth.audit.gdp import WithGaussian, epsilon_of_gaussian
from imgsynth.audit.one_run import Guesses, OneRunBound, epsilon_one_run, guess
from imgsynth.privacy import accounting
from imgsynth.privacy.events import training_event

ALPHA = 0.05
CEILINGS = ((20, 1.60), (50, 2.57), (100, 3.28), (500, 4.91), (1000, 5.60))  # n members and n non-members
CODEDP = (  # guessed r, right v, α, bound
    (100, 100, 0.05, "3.479195"),
    (100, 100, 0.01, "3.023198"),
    (100, 60, 0.05, "0.0507356"),
    (35, 23, 0.05, "0.0145487"),
)
JAX_PRIVACY = (  # shift, Steinke, f-DP; test_epsilon_one_run_close
    (1, "1.13346", "2.164749"),
    (2, "2.311945", "4.7218075"),
    (4, "4.395568", "9.133752"),
)
MAHLOUJIFAR = (  # σ, m, theory, Steinke, f-DP; arXiv:2410.22235, table 1
    (0.5, 10**5, 9.99, 4.99, 8.16),
    (1, 10**5, 4.37, 2.61, 3.61),
    (2, 10**5, 1.99, 1.33, 1.59),
    (4, 10**6, 0.92, 0.61, 0.82),
)


def shifted_normals(shift: float, n: int = 10_000, delta: float = 1e-6) -> tuple[float, float]:
    """(Steinke, f-DP under the Gaussian hypothesis) of jax-privacy's test: quantiles of N(shift, 1) against N(0, 1).

    Its rule is followed here: the best corner of the ROC's convex hull, at α over the number of corners. Corners are
    chosen by the true coins, so that this is a test of the formulas and no audit.
    """
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    corners = hull(quantiles + shift, quantiles)
    each = ALPHA / len(corners)
    guesses = [Guesses(2 * n, tp + fp, tp) for tp, fp in corners if tp + fp]
    return best_steinke(guesses, each, delta), best_gaussian(guesses, each, delta)


def hull(in_P: np.ndarray, out_Q: np.ndarray) -> list[tuple[int, int]]:
    """(true, false) positives at the corners of the upper convex hull of the ROC, from (0, 0) to (P, Q)."""
    kept: list[tuple[int, int]] = [(0, 0)]
    for threshold in np.union1d(in_P, out_Q)[::-1]:
        point = int((in_P >= threshold).sum()), int((out_Q >= threshold).sum())
        while len(kept) > 1 and _not_above(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _not_above(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Is b on or below the line from a to c (false positives to the right, true ones up)?"""
    return (b[0] - a[0]) * (c[1] - b[1]) <= (c[0] - b[0]) * (b[1] - a[1])


def best_steinke(guesses: Sequence[Guesses], alpha: float, delta: float) -> float:
    """The largest bound; the closed form for δ = 0 is above each, and tells where to stop."""
    most = [epsilon_one_run(g.canaries, g.guessed, g.correct, alpha, 0.0) for g in guesses]
    best = 0.0
    for i in np.argsort(most)[::-1]:
        if most[i] <= best:
            break
        best = max(best, epsilon_one_run(guesses[i].canaries, guesses[i].guessed, guesses[i].correct, alpha, delta))
    return best


def best_gaussian(guesses: Sequence[Guesses], alpha: float, delta: float) -> float:
    """The largest μ by algorithm 3 of arXiv:2410.22235 as an ε; counts that do not reject the best so far are left."""
    best = 0.0
    for g in guesses:
        if best and excess_at(g, _gaussian_of(best, delta), alpha) <= 0:
            continue
        best = max(best, WithGaussian.of(OneRunBound(0.0, 0.0, g, alpha, delta)).epsilon_under_gaussian_hypothesis)
    return best


def _gaussian_of(epsilon: float, delta: float):  # type: ignore[no-untyped-def]
    mu = float(brentq(lambda mu: epsilon_of_gaussian(mu, delta) - epsilon, 1e-3, 40.0))
    return lambda y: float(ndtr(ndtri(y) - mu))


def idealised(sigma: float, m: int, delta: float = 1e-5) -> tuple[float, float, float]:
    """(true ε, Steinke, f-DP) for m canaries of shift 1 in noise σ, with the expected count right at the best r."""
    guesses = []
    for t in sigma * np.linspace(0, 5, 300):
        right, wrong = norm.sf((t - 0.5) / sigma), norm.sf((t + 0.5) / sigma)
        r, v = round(m * (right + wrong)), round(m * right)
        if r:
            guesses.append(Guesses(m, r, v))
    true = epsilon_of_gaussian(1 / sigma, delta)
    return true, best_steinke(guesses, ALPHA, delta), best_gaussian(guesses, ALPHA, delta)


def white_box(each: int, audits: int, random: np.random.Generator) -> np.ndarray:
    """[audits] Steinke's bounds of Keinan et al.'s simulated white box: ``each`` Dirac canaries on 1,000 coordinates.

    T = 100, q = 0.1, σ for ε = 2 at δ = 1e-5, 100 guesses "in". The score is the log-likelihood ratio of the steps'
    noisy coordinate with and without the canary; the others on the coordinate are a binomial background.
    """
    d, steps, q, delta = 1000, 100, 0.1, 1e-5
    sigma = brentq(lambda s: accounting.epsilon(training_event(q, s, steps), delta) - 2, 1.0, 5.0, xtol=1e-3)
    bounds = []
    for _ in range(audits):
        included = random.random((d, each)) < 0.5
        drawn = random.binomial(included.sum(1)[:, None], q, (d, steps))
        seen = drawn + sigma * random.standard_normal((d, steps))
        without = _density(seen, sigma, each - 1, q / 2)
        with_it = (1 - q) * without + q * _density(seen - 1, sigma, each - 1, q / 2)
        score = np.repeat(np.log(with_it / without).sum(1), each)
        g = guess(score, included.ravel(), 100, 0, random)
        bounds.append(epsilon_one_run(g.canaries, g.guessed, g.correct, ALPHA, delta))
    return np.array(bounds)


def _density(seen: np.ndarray, sigma: float, others: int, rate: float) -> np.ndarray:
    """Of Bin(others, rate) + N(0, σ²), up to a constant."""
    weights = binom.pmf(np.arange(others + 1), others, rate)
    return sum(w * np.exp(-((seen - k) ** 2) / (2 * sigma**2)) for k, w in enumerate(weights))  # type: ignore[return-value]


def rows(audits: int, random: np.random.Generator) -> Iterator[tuple[str, str, str, str]]:
    for n, published in CEILINGS:
        ours = f"{ceiling(n, n, ALPHA, 0.0):.2f}"
        yield f"ceiling of {n} + {n} patients, δ = 0", "exact", f"{published:.2f}", ours
    for r, v, alpha, published in CODEDP:
        ours = epsilon_one_run(500, r, v, alpha, 1e-5)
        yield f"codedp: {v} of {r} right, m = 500, α = {alpha:g}", "exact", published, f"{ours:.{len(published) - 2}f}"
    for shift, steinke, fdp in JAX_PRIVACY:
        found = shifted_normals(shift)
        for name, published, ours in (("Steinke", steinke, found[0]), ("f-DP (Gaussian)", fdp, found[1])):
            text = f"{ours:.{len(published.split('.')[1])}f}"
            yield f"jax-privacy: N({shift}, 1) against N(0, 1), {name}", "exact", published, text
    for sigma, m, theory, steinke, fdp in MAHLOUJIFAR:
        found = idealised(sigma, m)
        for name, published, value in zip(("theory", "Steinke", "f-DP"), (theory, steinke, fdp), found, strict=True):
            yield f"Mahloujifar et al., σ = {sigma:g}, m = {m}, {name}", "±12 %", f"{published:.2f}", f"{value:.2f}"
    for each, published in ((1, "0.49 ± 0.01"), (8, "0.62 ± 0.01")):
        bounds = white_box(each, audits, random)
        half = 1.96 * bounds.std(ddof=1) / np.sqrt(audits)
        text = f"{bounds.mean():.3f} ± {half:.3f}"
        yield (
            f"Keinan et al., {each} canar{'y' if each == 1 else 'ies'} a coordinate, {audits} audits",
            "simulated",
            published,
            text,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=400, help="simulated audits of each white box")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| number (ε, α = 0.05 unless said) | kind | published | ours |\n|---|---|---|---|")
    for row in rows(options.audits, np.random.default_rng(options.seed)):
        print("| " + " | ".join(row) + " |", flush=True)
    print(f"\nseed {options.seed}, {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
