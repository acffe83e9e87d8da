"""Bounds as text: whatever is claimed of an exact number stays true of the rounded one.

An upper bound is rounded up, a lower bound down, an interval outward. All of it in decimals, exactly: 0.29 · 100 is
28.999999999999996 in binary.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

MOST_DIGITS = 17  # tell any two doubles apart


def round_up(value: float, digits: int = 3) -> str:
    """An upper bound to ``digits`` significant digits, never below ``value``; trailing zeros stay."""
    return f"{_digits(value, digits, ROUND_CEILING):g}"


def at_most(value: float, digits: int = 3) -> str:
    """``round_up`` without trailing zeros."""
    return _significant(value, digits, ROUND_CEILING)


def at_least(value: float, digits: int = 3) -> str:
    """A lower bound to ``digits`` significant digits, never above ``value``."""
    return _significant(value, digits, ROUND_FLOOR)


def apart(lower: float, upper: float) -> tuple[str, str]:
    """A lower bound that is *above* an upper one, both with as many digits (3 at least) as it takes to see that."""
    if not lower > upper:
        raise ValueError(f"Expected a lower bound above the upper one, got {lower} and {upper}.")
    digits = next(
        d for d in range(3, MOST_DIGITS + 1) if _digits(lower, d, ROUND_FLOOR) > _digits(upper, d, ROUND_CEILING)
    )
    return at_least(lower, digits), at_most(upper, digits)


def round_down(value: float, decimals: int = 1) -> float:
    """A lower bound to ``decimals`` decimals, never above ``value``; also for saying no more than is needed."""
    return float(_decimals(value, decimals, ROUND_FLOOR))


def fixed_down(value: float, decimals: int = 2) -> str:
    """``round_down`` with all its decimals."""
    return f"{_decimals(value, decimals, ROUND_FLOOR):.{decimals}f}"


def fixed_up(value: float, decimals: int = 2) -> str:
    """An upper bound with ``decimals`` decimals, never below ``value``."""
    return f"{_decimals(value, decimals, ROUND_CEILING):.{decimals}f}"


def outward(low: float, high: float, decimals: int = 2) -> str:
    """ "[low, high]" with ``decimals`` decimals: the interval that is shown contains the one that was computed."""
    return f"[{fixed_down(low, decimals)}, {fixed_up(high, decimals)}]"


def outward_digits(low: float, high: float, digits: int = 3) -> str:
    """The same with ``digits`` significant digits of either end."""
    return f"[{at_least(low, digits)}, {at_most(high, digits)}]"


def outward_percent(low: float, high: float, decimals: int = 1) -> str:
    """The same of two shares, in per cent with ``decimals`` decimals at most."""
    ends = (low, ROUND_FLOOR), (high, ROUND_CEILING)
    return "[{:g}, {:g}]".format(*(float(_decimals(end, decimals + 2, way).scaleb(2)) for end, way in ends))


def _significant(value: float, digits: int, way: str) -> str:
    return f"{float(_digits(value, digits, way)) + 0.0:.{digits}g}"


def _digits(value: float, digits: int, way: str) -> Decimal:
    return Context(prec=digits, rounding=way).create_decimal(repr(float(value)))


def _decimals(value: float, decimals: int, way: str) -> Decimal:
    """Without a minus on 0."""
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-decimals), rounding=way) + 0
