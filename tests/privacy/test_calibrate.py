import math
from dataclasses import replace

import pytest

from imgsynth.privacy.calibrate import calibrated
from imgsynth.privacy.plan import PrivacyPlan
from imgsynth.types import InputError


def plan_of(q, steps, histogram=0.0, sigma=1.0):
    return PrivacyPlan("dp", "patient", 1000, q, steps, 1.0, sigma, 1, 1e-5, histogram_epsilon=histogram)


@pytest.mark.parametrize(
    ("target", "q", "steps", "histogram"),
    [(8.0, 0.15, 300, 0.0), (8.0, 0.15, 300, 0.5), (1.0, 0.03, 2000, 0.2), (0.3, 0.01, 200_000, 0.0)],
)
def test_a_calibrated_plan_reaches_the_target_and_never_passes_it(target, q, steps, histogram):
    plan = calibrated(plan_of(q, steps, histogram), target)
    assert 0.98 * target < plan.epsilon <= target
    assert replace(plan, noise_multiplier=0.99 * plan.noise_multiplier).epsilon > target


def test_nothing_but_the_noise_is_changed_and_the_noise_it_came_with_is_ignored():
    plan = plan_of(0.15, 300, 0.5)
    got = calibrated(plan, 4.0)
    assert replace(got, noise_multiplier=plan.noise_multiplier) == plan
    assert calibrated(plan_of(0.15, 300, 0.5, sigma=77.0), 4.0) == got


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(InputError, match=r"histogram using 1\.5"):
        calibrated(plan_of(0.1, 100, 1.5), 1.0)
    assert math.isfinite(calibrated(plan_of(0.1, 100, 0.5), 1.0).epsilon)
