"""Going to the background: the child serves the mount, the parent waits until it is mounted and says how it went.

The child keeps no descriptor of whoever called: a caller that reads our output to its end must not wait for the
mount's whole life. It is its own session leader, in the root folder, with its output in the log.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable, make_error


class Announcer:
    """Tells the waiting parent, once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, **answer: object) -> None:
        """Send the answer and let the parent go."""
        if self._fd >= 0:
            os.write(self._fd, json.dumps(answer).encode())
            os.close(self._fd)
            self._fd = -1

    def mounted(self) -> None:
        """The mount is there."""
        self.say(mounted=True)

    def failed(self, error: CloudVergeError) -> None:
        """It could not be made."""
        self.say(code=int(error.code), message=error.message)


def in_background(serve: Callable[[Announcer], None]) -> None:
    """Run ``serve`` in a child; returns when it has announced success, raises what it announced otherwise."""
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        _become_daemon(write_fd)
        _serve_and_exit(serve, Announcer(write_fd))
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        said = pipe.read()
    if not said:
        raise Unavailable(
            Code.INTERNAL, "the mount process died while starting: CLOUDVERGE_LOG=debug tells more"
        )
    answer = json.loads(said)
    if not answer.get("mounted"):
        raise make_error(answer["code"], answer["message"])


def _become_daemon(kept_fd: int) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd != kept_fd:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own
    os.set_inheritable(kept_fd, False)


def _serve_and_exit(serve: Callable[[Announcer], None], announcer: Announcer) -> NoReturn:
    code = 1
    try:
        serve(announcer)
        code = 0
    except CloudVergeError as error:
        announcer.failed(error)
    except BaseException as error:
        announcer.say(code=int(Code.INTERNAL), message=f"the mount process failed: {error!r}")
        raise
    finally:
        os._exit(code)


def log_file(cache_folder: Path) -> Path:
    """Where the background process logs."""
    return cache_folder / "mount.log"
