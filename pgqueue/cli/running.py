"""`pgqueue task run`: one attempt here and now, through `queue.run_now`, which needs no database."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import pgqueue.cli
from pgqueue import payload
from pgqueue.cli.output import EXIT_FAILED, console, emit, pretty_json, say
from pgqueue.client import Queue
from pgqueue.outcomes import Cancel, Ignore, RetryIn, Snooze
from pgqueue.registry import type_of

if TYPE_CHECKING:
    from pgqueue.settings import Settings
    from pgqueue.task import Task

_ENGINE = {Path(module.__file__).parent for module in (pgqueue, pgqueue.cli, asyncio) if module.__file__}


def run_here(task: Task[Any], settings: Settings, *, json: bool) -> None:
    """Run the task and print its result; exit with 1 if it raised. With `json` what it prints itself goes to stderr."""
    name = type_of(task).name
    try:
        with redirect_stdout(sys.stderr if json else sys.stdout):
            result = Queue(settings=settings).run_now(task)
    except (Snooze, Ignore, Cancel) as request:
        _ended(name, request, json=json)
    except RetryIn as request:
        _failed(name, request, json=json)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # of user code
        traceback.print_exception(_trimmed(error))
        _failed(name, error, json=json)
    else:
        _succeeded(task, result, json=json)


def _succeeded(task: Task[Any], result: Any, *, json: bool) -> None:
    task_type = type_of(task)
    text = payload.encode_result(task_type, result)
    value = None if text is None else json_module.loads(text)
    if json:
        emit({"type": task_type.name, "status": "succeeded", "result": value})
    elif value is not None:
        console().print_json(pretty_json(value))


def _ended(name: str, request: Exception, *, json: bool) -> None:
    """It ended on purpose, without a result."""
    status = {Snooze: "snoozed", Ignore: "ignored", Cancel: "cancelled"}[type(request)]
    if json:
        emit({"type": name, "status": status, "reason": str(request)})
    say(f"{name} asks to be {status}: {str(request) or 'no reason given'}")


def _failed(name: str, error: BaseException, *, json: bool) -> None:
    if json:
        emit({"type": name, "status": "failed", "error": {"type": type(error).__name__, "message": _text(error)}})
    say(f"{name} failed: {type(error).__name__}: {_text(error)}")
    raise typer.Exit(EXIT_FAILED)


def _trimmed(error: BaseException) -> BaseException:
    """The error without the engine's frames above the user's: what is left begins in `run`."""
    trace = error.__traceback__
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).parent in _ENGINE:
        trace = trace.tb_next
    return error if trace is None else error.with_traceback(trace)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # of user code
        return "(its str() raises)"
