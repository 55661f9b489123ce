"""Lengths of time as people write them: `30s`, `500ms`, `1h30m`. Flags, settings and options all read them here.

Pure, and at the bottom of the house: nothing here knows a task or a database.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

from pgqueue.errors import ConfigurationError

EXAMPLES = "'30s', '500ms', '5m', '1h30m', '2d', 30 (seconds) or timedelta(seconds=30)"

LONGEST_TEXT = 64
"""Characters read at most: a longer text is no duration, and converting endless digits takes quadratic time."""

_MICROSECONDS = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
# Each unit once, from long to short: "30m1h" is more often a slip than a wish. "m" is not the beginning of "ms".
_PARTS = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit}(?![a-z])\s*)?" for unit in _MICROSECONDS), re.ASCII)


def parse_duration(value: str | float | timedelta) -> timedelta:
    """Read a duration: text with units (d, h, m, s, ms, us), a number of seconds (also as text), or a timedelta.

    Never negative. Raises ConfigurationError, with examples, for everything else: nonsense, a negative or non-finite
    number, one too large for a timedelta, and one finer than a microsecond.
    """
    try:
        duration = _parse(value)
    except OverflowError as error:
        raise ConfigurationError(f"the duration {_shown(value)} is too long: give one such as {EXAMPLES}") from error
    if duration is None:
        raise ConfigurationError(f"{_shown(value)} is not a duration: give one such as {EXAMPLES}")
    if duration < timedelta(0):
        raise ConfigurationError(f"a duration cannot be negative, and {_shown(value)} is: give one such as {EXAMPLES}")
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration in the shortest exact form with its largest units first: `1h30m`, `1.5s`, `500ms`, `0s`.

    `parse_duration` reads it back to the same value. A negative one (clocks that disagree) is shown with a minus
    sign, which `parse_duration` refuses.
    """
    if duration < timedelta(0):
        return f"-{format_duration(-duration)}"
    minutes, seconds = divmod(duration, timedelta(minutes=1))
    counts = {"d": minutes // 1440, "h": minutes // 60 % 24, "m": minutes % 60}
    parts = [f"{count}{unit}" for unit, count in counts.items() if count]
    if seconds or not parts:
        parts.append(_below_a_minute(seconds // timedelta(microseconds=1)))
    return "".join(parts)


def _below_a_minute(microseconds: int) -> str:
    """One part for what is left below a minute, in the largest unit that it fills: `1.5s`, `1.5ms`, `5us`."""
    if 0 < microseconds < 1_000:
        return f"{microseconds}us"
    unit, digits = ("ms", 3) if 0 < microseconds < 1_000_000 else ("s", 6)
    whole, rest = divmod(microseconds, 10**digits)
    return f"{whole}.{rest:0{digits}}".rstrip("0").rstrip(".") + unit


def _parse(value: object) -> timedelta | None:
    """The duration, perhaps negative; None for what is none. Raises OverflowError."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return _parse_text(value.strip()) if len(value) <= LONGEST_TEXT else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    duration = timedelta(seconds=value)
    return duration if duration or value == 0 else None  # not silently nothing: 1e-9 is nearer to an error than to 0


def _parse_text(text: str) -> timedelta | None:
    if text.startswith("-"):
        opposite = _parse_text(text[1:]) if not text.startswith("--") else None
        return None if opposite is None else -opposite
    if _NUMBER.fullmatch(text):
        text += "s"
    match = _PARTS.fullmatch(text)
    if not text or match is None:
        return None
    scaled = (Fraction(part) * scale for part, scale in zip(match.groups("0"), _MICROSECONDS.values(), strict=True))
    exact = sum(scaled, Fraction(0))
    return timedelta(microseconds=exact.numerator) if exact.denominator == 1 else None


def _shown(value: object) -> str:
    is_huge = isinstance(value, int) and abs(value) > 10**LONGEST_TEXT
    text = f"{value:#x}" if is_huge else repr(value)  # Python refuses to write thousands of decimal digits
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({type(value).__name__})"
