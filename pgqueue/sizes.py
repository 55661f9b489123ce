"""Amounts of memory as people write them: `512MB`, `2GB`. A KB is 1,024 bytes, as PostgreSQL counts."""

from __future__ import annotations

import re

from pgqueue.errors import ConfigurationError

_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?B|)", re.IGNORECASE | re.ASCII)


def parse_size(value: object) -> int:
    """`"512MB"` as bytes; a whole number is bytes already. Raises ConfigurationError for what is neither, or nothing."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str | int) and not isinstance(value, bool) else None
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 0 < size < 2**63:
        raise ConfigurationError(f"{value!r} is not an amount of memory: it is written 512MB or 2GB")
    return size
