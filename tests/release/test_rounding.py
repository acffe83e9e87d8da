"""A rounded bound must still be a bound: lower ones down, upper ones up, intervals outward, near misses included."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest

from imgsynth.release.rounding import (
    apart,
    at_least,
    at_most,
    fixed_down,
    fixed_up,
    outward,
    outward_digits,
    outward_percent,
    round_down,
    round_up,
)


def numbers() -> list[float]:
    """Of all sizes, few decimals among them, and both neighbours of each."""
    draw = random.Random(0)
    found = [draw.uniform(-10, 10) for _ in range(300)] + [
        round(draw.uniform(0, 9), draw.randint(0, 4)) for _ in range(300)
    ]
    found += [10.0 ** draw.uniform(-6, 3) for _ in range(300)] + [0.0, 0.29, 0.3, 0.58, 8.0, 2.5, 1.005]
    near = [y for x in found for y in (math.nextafter(x, -math.inf), x, math.nextafter(x, math.inf))]
    return [y for y in near if y == 0 or abs(y) > 1e-300]


def test_a_rounded_bound_is_still_one_and_is_near() -> None:
    for x in numbers():
        exact = Decimal(repr(x))
        for digits in (1, 2, 3, 4):
            low, high = Decimal(at_least(x, digits)), Decimal(at_most(x, digits))
            assert low <= exact <= high
            assert Decimal(round_up(x, digits)) == high
            assert float(high - low) <= abs(x) * 10.0 ** (1 - digits) * (1 + 1e-9)
        for decimals in (0, 1, 2, 3):
            low, high = Decimal(fixed_down(x, decimals)), Decimal(fixed_up(x, decimals))
            assert low <= exact <= high and high - low <= Decimal(1).scaleb(-decimals)
            assert round_down(x, decimals) == float(low)


@pytest.mark.parametrize(("value", "low", "high"), [
    (2.9999, "2.99", "3"), (3.0, "3", "3"), (2.0049, "2", "2.01"), (0.0, "0", "0"), (0.00123456, "0.00123", "0.00124"),
    (1234.5, "1.23e+03", "1.24e+03"), (0.29, "0.29", "0.29"), (-0.0, "0", "0"),
])  # fmt: skip
def test_text_of_bounds(value: float, low: str, high: str) -> None:
    assert (at_least(value), at_most(value)) == (low, high)


def test_intervals_contain_what_was_computed() -> None:
    assert outward(0.4951, 0.6049) == "[0.49, 0.61]"  # the nearest would be [0.50, 0.60], which leaves 0.5 out
    assert outward(0.50004, 1.0, 3) == "[0.500, 1.000]"
    assert outward(-0.0, -0.0) == "[0.00, 0.00]"
    assert outward_digits(0.79996, 0.800001) == "[0.799, 0.801]"
    assert outward_percent(0.07, 0.29) == "[7, 29]"  # 100 · 0.07 is a little above 7 in binary
    assert outward_percent(0.04951, 0.50001, 0) == "[4, 51]"
    assert outward_percent(-0.0003, 0.0) == "[-0.1, 0]"


@pytest.mark.parametrize(("lower", "upper", "text"), [
    (3.5, 2.0, ("3.5", "2")), (2.0049, 2.0031, ("2.0049", "2.0031")), (2.01, 2.009, ("2.01", "2.009")),
    (2.139, 2.111, ("2.13", "2.12")),
    (math.nextafter(2, 3), 2.0, ("2.0000000000000004", "2")),
])  # fmt: skip
def test_a_violation_is_visible_in_the_digits(lower: float, upper: float, text: tuple[str, str]) -> None:
    assert apart(lower, upper) == text
    assert float(text[0]) > float(text[1])
    with pytest.raises(ValueError, match="above the upper one"):
        apart(upper, lower)
