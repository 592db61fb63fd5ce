"""Logs of a server: one JSON object a line on stderr, quiet unless something needs a person.

Level from CLOUDVERGE_LOG (debug, info, warning, error; default warning). Fields that could hold a secret are
blanked whoever logs them, and tracebacks never show values of variables.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

SECRETS: Final = frozenset(
    ("token", "password", "authorization", "ticket", "refresh_token", "access_token", "dsn", "key", "secret")
)


def blank_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """structlog processor: replace the values of fields that could hold a secret."""
    for name in SECRETS.intersection(event):
        event[name] = "***"
    return event


def set_up_logging(server: str) -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines that name ``server``."""
    wanted = os.environ.get("CLOUDVERGE_LOG", "warning").upper()
    level = logging.getLevelNamesMapping().get(wanted, logging.WARNING)

    def name_server(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
        event["server"] = server
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_server,
        blank_secrets,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    renderer = structlog.processors.JSONRenderer()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level >= logging.WARNING:  # strangers who send garbage are no news
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
