"""The keeper: a small process that owns one embedded PostgreSQL for as long as somebody uses it.

`embedded.py` starts it. This package needs the standard library only and never imports the rest of pgqueue, so that it is up in
some 60 ms and stays small. The postmaster is its child. Each user holds a unix socket to it, which the kernel closes however the
user ends; `linger_seconds` after the last one the server is stopped. It writes one JSON line a time to its users:

    {"state": "waiting" | "starting", "about": …, "seconds": …}   about once a second, until the server is ready
    {"state": "ready", "sockets": …, "data": …, "way": …, "token": …}
    {"state": "failed", "error": …}

Two things are handed down to every process of the server, so that "is all of it gone?" has an exact answer, also after a kill:
the locked file `keeper.lock`, which keeps the next keeper out, and the write end of a pipe, whose end the keeper waits for.

    serving.py      users, the lock, the sockets, and keeping the server up
    postmaster.py   the data directory and the programs of PostgreSQL
    identity.py     whom it runs as, since PostgreSQL refuses to be root
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Plan(NamedTuple):
    """What the caller asks for. Travels as JSON in argv: so it holds no secret."""

    directory: str
    pginstall: str
    settings: dict[str, str]
    linger_seconds: float
    root_ways: list[str]
    account_root: str
    token: str


class StartFailure(Exception):
    """The server cannot run. The message is for the user's screen."""


class Stop(Exception):
    """Nobody uses the server any more, or somebody told the keeper to stop."""


Wait: TypeAlias = Callable[[Callable[[], bool], Callable[[], str]], None]
"""Wait until the first says True, and tell the users now and then what the second says. Raises Stop."""


def say(text: str) -> None:
    """Write a line to keeper.log, which is stderr. A full disk must not take the keeper down."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper [{os.getpid()}] {text}\n".encode())
