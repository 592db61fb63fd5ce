"""The mount's log: JSON lines, quiet by default, never a token or a password, bounded in bytes.

In the foreground it goes to stderr; in the background to ``mount.log`` in the cache folder, which is replaced
by a new one (the old kept once) when it has grown to ``LOG_BYTES_MAX``. stderr itself is pointed there too, so
that whatever else the process says (libfuse, a fatal error of the interpreter) is found in one place.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Final

import structlog

LOG_BYTES_MAX: Final = 2 * 1024 * 1024
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
STDERR_FD: Final = 2


class BoundedFile:
    """stderr, pointed at a file that is replaced when it has grown too large."""

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX, fd: int = STDERR_FD) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._fd = fd
        self._point_here()

    def _point_here(self) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(opened, self._fd)
        os.close(opened)

    def write(self, text: str) -> None:
        """Write whole lines. What cannot be written (a full disk) is lost, never an error."""
        try:
            if os.fstat(self._fd).st_size > self._bytes_max:
                os.replace(self._path, self._path.with_suffix(".log.1"))
                self._point_here()
            os.write(self._fd, text.encode(errors="replace"))
        except OSError:
            pass

    def flush(self) -> None:
        """Nothing is buffered."""


def level_from(name: str) -> int:
    """The level called ``name``; warning when there is none of that name."""
    return LEVELS.get(name.lower(), logging.WARNING)


def set_up(path: Path | None = None) -> None:
    """Send logs to the file ``path``, or to stderr; the level comes from CLOUDVERGE_LOG."""
    target = sys.stderr if path is None else BoundedFile(path)
    level = level_from(os.environ.get("CLOUDVERGE_LOG", "warning"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks
            if level <= logging.DEBUG
            else structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=target),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,  # the target changes when the cache folder is known
    )
    logging.basicConfig(
        level=max(level, logging.WARNING),
        stream=target,
        format="%(levelname)s %(name)s %(message)s",
        force=True,
    )
