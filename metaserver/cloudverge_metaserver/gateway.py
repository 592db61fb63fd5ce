"""Public links: a page about a file, its password form, and the download, for anybody who has the secret.

The secret in the path is the only right shown, so it is treated as one: auth is asked with every request whether it
still opens the file, it is written to no log, and whatever opens nothing gets the same page. A download is counted
when it starts at the file's first byte. A request for a later range is one that is resumed, if this address has begun
one here lately; from anybody else it counts too, or a limit would be passed by leaving out the first byte.

The password comes from the form (then kept in a sealed cookie), or by HTTP Basic with any user name.
"""

import base64
import binascii
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import structlog
from starlette.requests import Request
from starlette.responses import Response

from cloudverge_metaserver.authority import Authority, OpenedLink
from cloudverge_metaserver.byteranges import Part, asks_for_all, etag_of, part_of
from cloudverge_metaserver.contents import Contents
from cloudverge_metaserver.download import Download, Slots
from cloudverge_metaserver.linkcookie import LIFE_S, LinkCookies
from cloudverge_metaserver.linkpages import (
    ABSENT,
    HEADERS,
    disposition,
    file_page,
    password_page,
    shown_name,
    trouble_page,
)
from cloudverge_protocol.errors import CloudVergeError, Code, Refused
from cloudverge_protocol.ids import SpaceId
from cloudverge_protocol.inodes import Inode
from cloudverge_wire.httperrors import status_of

_log = structlog.get_logger("cloudverge.metaserver")

COOKIE: Final = "cv-link"
PASSWORD_MAX: Final = 1024
BUSY_AFTER_S: Final = 5
RESUMED_WITHIN_S: Final = 12 * 3600.0
BEGUN_MAX: Final = 10_000
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_ABSENT: Final = frozenset({Code.NOT_FOUND, Code.STALE, Code.IS_DIR, Code.UNAUTHORIZED})

Ended = Callable[[int, SpaceId], bool]


class LinkGateway:
    """The handlers of /l/...; ``secure``: cookies travel by TLS only."""

    def __init__(
        self, authority: Authority, contents: Contents, cookies: LinkCookies, ended: Ended, *, secure: bool
    ) -> None:
        self._authority, self._contents, self._cookies = authority, contents, cookies
        self._ended, self._secure = ended, secure
        self._slots = Slots()
        self._begun: OrderedDict[tuple[int, str], float] = (
            OrderedDict()
        )  # downloads counted, by link and address

    async def page(self, request: Request, secret: str) -> Response:
        """What the link is, or the form for its password."""
        try:
            link, inode = await self._look(request, secret, count=False)
        except CloudVergeError as error:
            if error.code == Code.FORBIDDEN:
                return _html(200, password_page(secret))
            return _trouble(error)
        return _html(200, file_page(secret, shown_name(link.name), inode.size))

    async def unlock(self, request: Request, secret: str) -> Response:
        """Take the password of the form; back to the page if it is right."""
        password = _password_of_form(await request.body())
        try:
            await self._open(request, secret, password, count=False)
        except CloudVergeError as error:
            if error.code == Code.FORBIDDEN:
                return _html(403, password_page(secret, "That is not the password of this link."))
            return _trouble(error)
        response = Response(status_code=303, headers={**HEADERS, "Location": f"/l/{secret}"})
        response.set_cookie(
            COOKIE,
            self._cookies.seal(secret, password, time.time()),
            max_age=LIFE_S,
            path=f"/l/{secret}",
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )
        return response

    async def file(self, request: Request, secret: str) -> Response:
        """The file, or the part of it that is asked for."""
        if not self._slots.take(secret):
            return _busy()
        download: Download | None = None
        try:
            response = await self._file(request, secret)
            download = response if isinstance(response, Download) else None
            return response
        except CloudVergeError as error:
            if error.code == Code.FORBIDDEN:
                return _html(401, password_page(secret), {"WWW-Authenticate": 'Basic realm="this link"'})
            return _trouble(error)
        finally:
            if download is None:
                self._slots.give_back(secret)

    async def _file(self, request: Request, secret: str) -> Response:
        headers = request.headers
        counted = request.method == "GET" and asks_for_all(headers)
        link, inode = await self._look(request, secret, count=counted)
        etag = etag_of(inode.version)
        part = part_of(headers if request.method == "GET" else {}, inode.size, etag)
        told = _about(link, inode, etag, part)
        if request.method == "HEAD" or part.status not in (200, 206):
            return Response(status_code=part.status, headers=told)
        if not counted and (part.start == 0 or not self._has_begun(link, request)):
            await self._look(request, secret, count=True)
        self._note_begun(link, request)
        pieces = self._contents.read(link.space, inode, part.start, part.end)
        return Download(
            part.status, told, pieces, lambda: self._over(link), lambda: self._slots.give_back(secret)
        )

    def _has_begun(self, link: OpenedLink, request: Request) -> bool:
        begun_s = self._begun.get((link.id, _address_of(request)))
        return begun_s is not None and time.monotonic() < begun_s + RESUMED_WITHIN_S

    def _note_begun(self, link: OpenedLink, request: Request) -> None:
        key = (link.id, _address_of(request))
        self._begun.setdefault(key, time.monotonic())
        if not self._has_begun(link, request):
            self._begun[key] = time.monotonic()
        while len(self._begun) > BEGUN_MAX:
            self._begun.popitem(last=False)

    def _over(self, link: OpenedLink) -> bool:
        return self._ended(link.id, link.space) or bool(link.until and link.until <= time.time())

    async def _look(self, request: Request, secret: str, *, count: bool) -> tuple[OpenedLink, Inode]:
        """What the link opens for this request, and the file as it is now."""
        link = await self._open(request, secret, self._password(request, secret), count=count)
        return link, await self._contents.find(link.space, link.ino)

    async def _open(self, request: Request, secret: str, password: str, *, count: bool) -> OpenedLink:
        if not _SECRET.fullmatch(secret):
            raise Refused(Code.NOT_FOUND)
        link = await self._authority.open_link(secret, password, _address_of(request), count=count)
        if self._over(link):
            raise Refused(Code.NOT_FOUND)
        return link

    def _password(self, request: Request, secret: str) -> str:
        by_header = _password_of_header(request.headers.get("authorization", ""))
        return by_header or self._cookies.password_in(request.cookies.get(COOKIE, ""), secret, time.time())


def _address_of(request: Request) -> str:
    return request.client.host if request.client else ""


def _about(link: OpenedLink, inode: Inode, etag: str, part: Part) -> dict[str, str]:
    """The headers of a download's answer."""
    told = {**HEADERS, "ETag": etag, "Accept-Ranges": "bytes"}
    if part.status in (200, 206):
        told["Content-Type"] = "application/octet-stream"
        told["Content-Disposition"] = disposition(shown_name(link.name))
        told["Content-Length"] = str(part.end - part.start)
    if part.status == 206:
        told["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{inode.size}"
    elif part.status == 416:
        told["Content-Range"] = f"bytes */{inode.size}"
    return told


def _html(status: int, page: bytes, more: dict[str, str] | None = None) -> Response:
    return Response(page, status, {**HEADERS, **(more or {})}, media_type="text/html")


def absent_page() -> Response:
    """The one answer to whatever opens nothing."""
    return _html(404, ABSENT)


def _busy() -> Response:
    page = trouble_page("Busy", "Many downloads are under way here. Try again in a moment.")
    return _html(503, page, {"Retry-After": str(BUSY_AFTER_S)})


def _trouble(error: CloudVergeError) -> Response:
    """The page of an error; all that opens nothing looks the same."""
    if error.code in _ABSENT:
        return absent_page()
    if error.code == Code.BUSY:
        wait_s = max(1, round(error.retry_after_s))
        page = trouble_page("Too many attempts", f"Wait {wait_s} seconds, then try again.")
        return _html(429, page, {"Retry-After": str(wait_s)})
    _log.info("link not served", reason=error.message)
    page = trouble_page("Not just now", "This file cannot be served at the moment. Try again shortly.")
    return _html(max(503, status_of(error.code)), page, {"Retry-After": str(BUSY_AFTER_S)})


def _password_of_form(body: bytes) -> str:
    try:
        fields = parse_qs(body.decode(), max_num_fields=8)
    except ValueError:
        return ""
    return _bounded(fields.get("password", [""])[0])


def _password_of_header(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return _bounded(base64.b64decode(value.strip(), validate=True).decode().partition(":")[2])
    except (binascii.Error, ValueError):
        return ""


def _bounded(password: str) -> str:
    return password if len(password) <= PASSWORD_MAX and password.isprintable() else ""
