"""When a failed task runs again: the policy that `@task(retry=Retry(...))` takes.

Pure: the executor asks `Retry.delay` after a failure and settles what it answers. Nothing here sleeps or looks at a clock.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Literal, TypeAlias, cast, get_args

from pgqueue.durations import format_duration
from pgqueue.errors import ConfigurationError

Backoff = Literal["exponential", "linear", "fixed"]
ErrorFilter: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
"""Which errors: exception types, or a predicate of the error. The predicate is called in the runner: no I/O in it."""

MOST_ATTEMPTS = 10_000
LONGEST_DELAY = timedelta(days=366)

_BACKOFFS = ", ".join(get_args(Backoff))
_MICROSECOND = timedelta(microseconds=1)
_LARGEST_SHIFT = 64  # 1 µs doubled that often is longer than LONGEST_DELAY; an exponent must not grow with the tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, how soon and after which errors a failed task is tried again.

    max_attempts: runs in all, so 5 means 4 retries. The default, 10, with the other defaults spreads over about ten minutes.
    backoff: how the pause grows: "exponential" doubles it, "linear" adds `initial` each time, "fixed" keeps it.
    initial: the first pause; zero tries again at once. maximum: the cap of the pause, before the jitter.
    jitter: what is added after the cap, as fractions of the pause: a pair (least, most), or a number for (0, number).
    on: only these errors are tried again (None: all). unless: these are not, and it wins over `on`.
    """

    max_attempts: int = 10
    backoff: Backoff = "exponential"
    initial: timedelta = timedelta(seconds=1)
    maximum: timedelta = timedelta(hours=1)
    jitter: float | tuple[float, float] = (0.1, 0.2)
    on: ErrorFilter | None = None
    unless: ErrorFilter | None = None

    def __post_init__(self) -> None:
        """Refuse every wrong option with a ConfigurationError that names it."""
        _check_attempts(self.max_attempts)
        if self.backoff not in get_args(Backoff):
            raise ConfigurationError(f"Retry backoff is {_BACKOFFS}, such as backoff='linear', not {self.backoff!r}")
        _check_pause("initial", self.initial)
        _check_pause("maximum", self.maximum)
        if self.maximum < self.initial:
            raise ConfigurationError(
                f"Retry maximum={format_duration(self.maximum)} is below initial={format_duration(self.initial)}: "
                "give one such as initial=timedelta(seconds=1), maximum=timedelta(hours=1)"
            )
        _check_jitter(self.jitter)
        _check_filter("on", self.on)
        _check_filter("unless", self.unless)

    def delay(self, *, tries: int, error: BaseException | None, random: Random) -> timedelta | None:
        """How long to wait after a failed attempt; None is to give up.

        tries: the attempts before the one that failed, so 0 after the first. error: what it raised, or None if it failed
        without an exception (killed at its timeout, say): then `on` and `unless` have nothing to judge, and it is retried.
        An exception of a predicate comes through; the caller gives the task up with that as the reason.
        """
        if tries < 0:
            raise ValueError(f"tries counts the attempts before this one and cannot be {tries}")
        if tries + 1 >= self.max_attempts or not self._is_wanted(error):
            return None
        least, most = _bounds(self.jitter)
        pause = self._pause(tries)
        return pause + pause * random.uniform(least, most)

    def as_json(self) -> dict[str, Any]:
        """The policy as JSON values, for an enqueue's own `retry=`. `on` and `unless` are code, which JSON cannot hold."""
        if self.on is not None or self.unless is not None:
            raise ConfigurationError(
                "retry= of one enqueue is stored with the task, and on= and unless= cannot be: put them on the type, "
                "@task(retry=Retry(on=...)), or leave them out here"
            )
        return {
            "max_attempts": self.max_attempts,
            "backoff": self.backoff,
            "initial_seconds": self.initial.total_seconds(),
            "maximum_seconds": self.maximum.total_seconds(),
            "jitter": list(_bounds(self.jitter)),
        }

    @classmethod
    def from_json(cls, stored: Any) -> Retry:
        """The policy of `as_json`; what is missing has its default. Raises ConfigurationError for what is no policy."""
        if not isinstance(stored, dict):
            raise ConfigurationError(f"a stored retry policy is a JSON object, not {stored!r:.200}")
        known = {"max_attempts", "backoff", "initial_seconds", "maximum_seconds", "jitter"}
        options = {name: value for name, value in stored.items() if name in known}  # a newer program may have added one
        try:
            for name in ("initial", "maximum"):
                if f"{name}_seconds" in options:
                    options[name] = timedelta(seconds=options.pop(f"{name}_seconds"))
            if isinstance(options.get("jitter"), list):
                options["jitter"] = tuple(options["jitter"])
        except (TypeError, OverflowError, ValueError) as error:
            raise ConfigurationError(f"the stored retry policy {stored!r:.200} is none: {error}") from error
        return cls(**options)

    def describe(self) -> str:
        """For people: `5 attempts, exponential from 1s up to 1h`."""
        if self.max_attempts == 1:
            return "1 attempt"
        initial, maximum = format_duration(self.initial), format_duration(self.maximum)
        pace = f"every {initial}" if self.backoff == "fixed" else f"from {initial} up to {maximum}"
        return f"{self.max_attempts} attempts, {self.backoff} {pace}"

    def _pause(self, tries: int) -> timedelta:
        """The pause before its jitter. Whole microseconds in integers of any size: no number of tries overflows."""
        initial = self.initial // _MICROSECOND
        grown = {
            "exponential": initial << min(tries, _LARGEST_SHIFT),
            "linear": initial * (tries + 1),
            "fixed": initial,
        }[self.backoff]
        return min(grown, self.maximum // _MICROSECOND) * _MICROSECOND

    def _is_wanted(self, error: BaseException | None) -> bool:
        if error is None:
            return True
        if self.unless is not None and _matches(self.unless, error):
            return False
        return self.on is None or _matches(self.on, error)


def _matches(errors: ErrorFilter, error: BaseException) -> bool:
    if isinstance(errors, (type, tuple)):
        return isinstance(error, errors)
    return bool(errors(error))


def _bounds(jitter: float | tuple[float, float]) -> tuple[float, float]:
    return jitter if isinstance(jitter, tuple) else (0.0, jitter)


def _check_attempts(count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ATTEMPTS:
        raise ConfigurationError(f"Retry max_attempts is from 1 to {MOST_ATTEMPTS}, such as max_attempts=5, not {count!r}")


def _check_pause(option: str, pause: object) -> None:
    if not isinstance(pause, timedelta):
        raise ConfigurationError(f"Retry {option} is a timedelta, such as {option}=timedelta(seconds=30), not {pause!r}")
    if not timedelta(0) <= pause <= LONGEST_DELAY:
        raise ConfigurationError(
            f"Retry {option} is at most {LONGEST_DELAY.days} days, such as {option}=timedelta(seconds=30), "
            f"not {format_duration(pause)}"
        )


def _check_jitter(jitter: object) -> None:
    pair = jitter if isinstance(jitter, tuple) else (0, jitter)
    numbers = all(isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part) for part in pair)
    if len(pair) != 2 or not numbers or not 0 <= cast(float, pair[0]) <= cast(float, pair[1]) <= 1:
        raise ConfigurationError(f"Retry jitter is a fraction to 1 or a pair, such as jitter=(0.1, 0.2), not {jitter!r}")


def _check_filter(option: str, errors: object) -> None:
    if errors is None:
        return
    example = f"such as {option}=OSError, {option}=(OSError, TimeoutError) or {option}=lambda error: ..."
    if isinstance(errors, (type, tuple)):
        types = errors if isinstance(errors, tuple) else (errors,)
        if not types or not all(isinstance(part, type) and issubclass(part, BaseException) for part in types):
            raise ConfigurationError(f"Retry {option} takes exception types, {example}, not {errors!r}")
    elif inspect.iscoroutinefunction(errors):
        raise ConfigurationError(f"Retry {option} is asked outside the loop: a plain function, not the async {errors!r}")
    elif not callable(errors):
        raise ConfigurationError(f"Retry {option} takes exception types or a predicate, {example}, not {errors!r}")


NO_RETRY = Retry(max_attempts=1)
"""What a task type has that says nothing about retries: one attempt."""
