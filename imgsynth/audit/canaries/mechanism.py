"""Is the mechanism the one that the proof is about? The auditor knows coins, draws and readings, and can simply look.

A bound on ε needs a large excess before it shows: twice the sensitivity at ε = 1 is hardly found by 1,000 canaries.
Given the draws, though, the readings of Dirac canaries are normal with known mean and variance at every step, and the
draws are coin tosses with a known rate. Tests of that see a few percent. They bound no ε.

| check       | of Dirac canaries' readings, or of any canaries' draws | what is wrong where it fails              |
|-------------|--------------------------------------------------------|-------------------------------------------|
| dose        | mean 1 where drawn, in clipping norms                  | clipping, counting twice, normaliser      |
| noise       | mean square σ_g² where not drawn                       | noise, normaliser                         |
| steps       | noise of different steps is uncorrelated               | noise used twice, kept, or of low rank    |
| coordinates | noise of different coordinates is uncorrelated         | one noise for several weights             |
| normal      | all noise together is normal                           | another distribution                      |
| rate        | each draws with probability q in each of T steps       | another rate                              |
| draws       | spread over canaries like T tosses of each             | shuffled batches                          |
| batches     | spread over steps like tosses of all                   | batches of one size                       |
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from imgsynth.audit.canaries.independence import of_rows, of_shape
from imgsynth.privacy.plan import PrivacyPlan

LEVEL = 1e-4  # of each two-sided test; fixed, and so small that sound trainers are not suspected by mere repetition


@dataclass(frozen=True)
class Check:
    """``value`` should be ``expected``; ``p`` is the two-sided p-value, 0 where what is exact is off."""

    name: str
    value: float
    expected: float
    p: float

    @property
    def passed(self) -> bool:
        return self.p > LEVEL

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


class Mechanism:
    """Collects readings and draws over the steps of a twin."""

    def __init__(self, plan: PrivacyPlan, coins_M: np.ndarray):
        self._plan, self._coins_M = plan, coins_M
        self._draws_M = np.zeros(len(coins_M), dtype=np.int64)
        self._batches: list[int] = []
        self._drawn: list[np.ndarray] = []
        self._others: list[np.ndarray] = []
        self._noise_TM: list[np.ndarray] = []

    def add(self, drawn_M: np.ndarray, x_M: np.ndarray | None) -> None:
        """One step: which canaries were in the batch, and their readings where these are independent."""
        self._draws_M += drawn_M
        self._batches.append(int(drawn_M.sum()))
        if x_M is not None:
            self._drawn.append(x_M[drawn_M])
            self._others.append(x_M[~drawn_M])
            self._noise_TM.append((x_M - drawn_M).astype(np.float32))

    def checks(self) -> list[Check]:
        included, steps = int(self._coins_M.sum()), self._plan.steps
        found = [
            self._rate(),
            self._spread("draws", self._draws_M[self._coins_M], steps),
            self._spread("batches", np.array(self._batches), included),
        ]
        if self._drawn:
            found += [self._dose(np.concatenate(self._drawn)), self._noise(np.concatenate(self._others))]
            found += self._fresh(np.stack(self._noise_TM))
        return [check for check in found if check is not None]

    def _dose(self, x_N: np.ndarray) -> Check | None:
        sd = self._plan.gradient_noise_multiplier
        if not len(x_N):
            return None
        if sd == 0:
            return Check("dose", float(x_N.mean()), 1.0, float(np.abs(x_N - 1).max() < 1e-2))
        z = (x_N.mean() - 1) * math.sqrt(len(x_N)) / sd
        return Check("dose", float(x_N.mean()), 1.0, float(2 * stats.norm.sf(abs(z))))

    def _noise(self, x_N: np.ndarray) -> Check | None:
        sd = self._plan.gradient_noise_multiplier
        if not len(x_N):
            return None
        rms = float(np.sqrt((x_N**2).mean()))
        if sd == 0:
            return Check("noise", rms, 0.0, float(np.abs(x_N).max() < 1e-2))
        square = len(x_N) * (rms / sd) ** 2
        p = 2 * min(stats.chi2.cdf(square, len(x_N)), stats.chi2.sf(square, len(x_N)))
        return Check("noise", rms, sd, float(min(1.0, p)))

    def _fresh(self, z_TM: np.ndarray) -> list[Check | None]:
        if self._plan.gradient_noise_multiplier == 0:
            return []
        pairs = {"steps": of_rows(z_TM), "coordinates": of_rows(np.ascontiguousarray(z_TM.T))}
        distance, p = of_shape(z_TM)
        return [
            *(None if pair is None else Check(name, pair[0], 0.0, pair[1]) for name, pair in pairs.items()),
            Check("normal", distance, 0.0, p),
        ]

    def _rate(self) -> Check | None:
        """Of those put in; one that was left out and drawn all the same fails for sure."""
        tosses, q = int(self._coins_M.sum()) * self._plan.steps, self._plan.sampling_rate
        drawn = int(self._draws_M.sum())
        if not tosses:
            return None
        p = 0.0 if self._draws_M[~self._coins_M].any() else float(stats.binomtest(min(drawn, tosses), tosses, q).pvalue)
        return Check("rate", drawn / tosses, q, p)

    def _spread(self, name: str, counts_N: np.ndarray, tosses: int) -> Check | None:
        """Variance of counts of ``tosses`` each, in units of what tosses give."""
        q, n = self._plan.sampling_rate, len(counts_N)
        if n < 20 or tosses == 0 or q == 1:
            return None
        variance = tosses * q * (1 - q)
        kurtosis = 3 + (1 - 6 * q * (1 - q)) / variance
        spread = (kurtosis - (n - 3) / (n - 1)) / n  # variance of the ratio, exact
        freedom = 2 / spread  # of the chi-square distribution with the same variance (Satterthwaite)
        ratio = float(counts_N.var(ddof=1) / variance)
        p = 2 * min(stats.chi2.cdf(ratio * freedom, freedom), stats.chi2.sf(ratio * freedom, freedom))
        return Check(name, ratio, 1.0, float(min(1.0, p)))
