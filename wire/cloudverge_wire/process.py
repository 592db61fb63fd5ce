"""The life of a server process: logs, loop, ready file, a clean stop at SIGTERM or SIGINT.

``run`` is the whole of a server's main: it enters ``start(settings)``, an async context manager that yields
the endpoints, writes the ready file, waits for a signal, and leaves the context. A second signal ends at once.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop

from cloudverge_protocol.errors import CloudVergeError
from cloudverge_wire.arguments import ServerSettings
from cloudverge_wire.logging import set_up_logging

log = structlog.get_logger("cloudverge.process")


@dataclass(frozen=True)
class Endpoints:
    """Where a running server listens."""

    http: str
    frames: str | None = None  # "host:port"


S = TypeVar("S", bound=ServerSettings)


def write_ready_file(path: Path, endpoints: Endpoints) -> None:
    """Write, in one step, {"http", "frames", "pid"}."""
    facts = {"http": endpoints.http, "frames": endpoints.frames, "pid": os.getpid()}
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(facts))
    fresh.replace(path)


class _Stop:
    """What the first signal does: cancel a server that is still starting, tell one that runs to stop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._running = False
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # the next one ends the process at once
            signal.signal(number, signal.SIG_DFL)
        self._asked.set()
        if not self._running and self._main is not None:
            self._main.cancel()

    async def wait(self) -> None:
        self._running = True
        await self._asked.wait()


async def _serve(settings: S, start: Callable[[S], AbstractAsyncContextManager[Endpoints]]) -> None:
    stop = _Stop()
    async with start(settings) as endpoints:
        if settings.ready_file is not None:
            write_ready_file(settings.ready_file, endpoints)
        log.info("ready", http=endpoints.http, frames=endpoints.frames)
        await stop.wait()
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)


def run(name: str, settings: S, start: Callable[[S], AbstractAsyncContextManager[Endpoints]]) -> int:
    """Serve until told to stop; returns the exit status (1: could not start, the reason is on stderr)."""
    set_up_logging(name)
    try:
        uvloop.run(_serve(settings, start))
    except asyncio.CancelledError:
        return 0  # told to stop before it had started
    except CloudVergeError as error:
        print(f"cloudverge-{name}: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cloudverge-{name}: {error}", file=sys.stderr)
        return 1
    return 0
