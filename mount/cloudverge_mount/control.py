"""The control socket of a running mount: JSON lines, for ``cv status``, ``cv sync`` and ``cvumount``.

A request is one line, ``{"do": "status"}``, ``{"do": "sync"}`` or ``{"do": "end"}``. A status is one line. "end" asks
a mount that is no longer in the mount table to end although somebody else (another mount namespace, open files)
still holds it; one that is mounted refuses. A sync answers with lines of
progress (the status's figures) until the last, which has ``done`` true, or ``error`` with the reason.

Only this user and root are listened to: the socket lies in a private folder and the peer's uid is checked as well.
"""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from cloudverge_protocol.errors import CloudVergeError, Code, Unavailable, make_error

REQUEST_BYTES_MAX: Final = 64 * 1024
PROGRESS_EVERY_S: Final = 0.25
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0  # between two lines

Status = dict[str, Any]
_log = structlog.get_logger()


class ControlServer:
    """Answers at ``path``. ``status`` may ask the servers, ``progress`` does not; ``sync`` is the barrier."""

    def __init__(
        self,
        path: Path,
        status: Callable[[], Awaitable[Status]],
        progress: Callable[[], Status],
        sync: Callable[[], Awaitable[None]],
        end: Callable[[], None],
    ) -> None:
        self._path = path
        self._status = status
        self._progress = progress
        self._sync = sync
        self._end = end

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the socket is removed at the end."""
        self._path.unlink(missing_ok=True)
        with trio.socket.socket(socket.AF_UNIX) as listener:
            await listener.bind(os.fspath(self._path))
            self._path.chmod(0o600)
            listener.listen(16)
            task_status.started()
            try:
                await trio.serve_listeners(self._serve, [trio.SocketListener(listener)])
            finally:
                self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            if _peer_uid(stream) in (0, os.geteuid()):
                async with stream:
                    await self._answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the asker went away
        except Exception as error:
            _log.error("a control request failed unexpectedly", exc_info=error)
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        request = await _read_request(stream)
        if request.get("do") == "status":
            await _say(stream, await self._status())
        elif request.get("do") == "sync":
            await self._answer_sync(stream)
        elif request.get("do") == "end":
            await self._answer_end(stream)
        else:
            await _say(
                stream, {"error": f"unknown request {request.get('do')!r}", "code": int(Code.BAD_REQUEST)}
            )

    async def _answer_end(self, stream: trio.SocketStream) -> None:
        try:
            self._end()
            await _say(stream, {"done": True})
        except CloudVergeError as error:
            await _say(stream, {"error": error.message, "code": int(error.code)})

    async def _answer_sync(self, stream: trio.SocketStream) -> None:
        outcome: Status = {"done": True}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_progress, stream)
            try:
                await self._sync()
            except CloudVergeError as error:
                outcome = {"error": error.message, "code": int(error.code)}
            nursery.cancel_scope.cancel()
        await _say(stream, self._progress() | outcome)

    async def _show_progress(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # nobody looks any more
            while True:
                await _say(stream, self._progress())
                await trio.sleep(PROGRESS_EVERY_S)


def _peer_uid(stream: trio.SocketStream) -> int:
    packed = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    assert isinstance(packed, bytes)
    _, uid, _ = struct.unpack("3i", packed)
    return int(uid)


async def _read_request(stream: trio.SocketStream) -> dict[str, Any]:
    line = b""
    with trio.fail_after(CONNECT_TIMEOUT_S):
        while not line.endswith(b"\n") and len(line) < REQUEST_BYTES_MAX:
            piece = await stream.receive_some(REQUEST_BYTES_MAX)
            if not piece:
                break
            line += piece
    try:
        request = json.loads(line)
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}


async def _say(stream: trio.SocketStream, answer: Status) -> None:
    await stream.send_all(json.dumps(answer).encode() + b"\n")


# --- the asking side, without an event loop ----------------------------------------------------------------


def ask(path: Path, do: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[Status]:
    """The answers of the mount whose control socket is ``path``; raises what it answers as an error."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.ExitStack() as stack:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
            client.sendall(json.dumps({"do": do}).encode() + b"\n")
            for line in stack.enter_context(client.makefile("rb")):
                answer = json.loads(line)
                if "error" in answer:
                    raise make_error(answer["code"], answer["error"])
                yield answer
        except TimeoutError:
            raise Unavailable(Code.TIMEOUT, f"the mount did not answer within {timeout_s:g} s") from None
        except OSError as error:
            raise Unavailable(Code.UNREACHABLE, f"the mount does not answer: {error.strerror}") from None
