"""Format numbers for reports and tables."""

import math


def percent(fraction: float | None, unit: str = " %") -> str:
    """Format a fraction as a percentage: 0.4213 -> '42.1 %'; None -> '-'."""
    return "-" if fraction is None else f"{100 * fraction:.1f}{unit}"


def number(value: float, spec: str) -> str:
    """Format a number with a Unicode minus sign: (-0.91, '.3f') -> '−0.910'.

    spec: a format spec; a space is inserted before '%'. NaN and infinities become
    'not finite'.
    """
    if not math.isfinite(value):
        return "not finite"
    return format(value, spec).replace("-", "−").replace("%", " %")


def plus_minus(value: tuple[float, float | None] | None, spec: str = ".1f", factor: float = 1) -> str:
    """Format a (mean, standard deviation) pair as '60.0 ± 14.1'; None -> '-'.

    If the deviation is None (a single value), only the mean is shown. Both numbers are
    multiplied by `factor` and formatted with `spec`.
    """
    if value is None:
        return "-"
    mean, deviation = value
    spread = f" ± {factor * deviation:{spec}}" if deviation is not None else ""
    return f"{factor * mean:{spec}}{spread}"


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit: 754 seconds -> '12.6 min'."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
