"""Background work that does not end: a surprise in it is logged, and it begins again after a pause."""

from collections.abc import Awaitable, Callable

import structlog
import trio

log = structlog.get_logger(__name__)

PAUSE_S = 1.0


async def keep_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` for ever, again after an exception nobody thought of. Cancellation passes."""
    while True:
        try:
            await work()
        except Exception as error:
            log.error("background work stumbled", work=name, exc_info=error)
            await trio.sleep(PAUSE_S)
        else:
            return
