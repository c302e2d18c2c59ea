"""Numbers as text."""

import math


def percent(fraction: float | None, unit: str = " %") -> str:
    """Format a fraction in percent: 0.4213 -> '42.1 %'; '-' for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}{unit}"


def number(value: float, spec: str) -> str:
    """Format by a format specification, with a true minus sign: (-0.91, '.3f') -> '−0.910'.

    '.1%' gives '42.1 %'. NaN and infinities become 'not finite'.
    """
    if not math.isfinite(value):
        return "not finite"
    return format(value, spec).replace("-", "−").replace("%", " %")


def plus_minus(value: tuple[float, float | None] | None, spec: str = ".1f", factor: float = 1) -> str:
    """Format a mean and its standard deviation, None for a single value: '60.0 ± 14.1'; '-' for None.

    spec: format specification of both, after they are multiplied by `factor`.
    """
    if value is None:
        return "-"
    mean, deviation = value
    spread = f" ± {factor * deviation:{spec}}" if deviation is not None else ""
    return f"{factor * mean:{spec}}{spread}"


def duration(seconds: float) -> str:
    """Format seconds in the largest fitting unit: 754 -> '12.6 min'."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
