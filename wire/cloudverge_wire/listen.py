"""Where a server may listen, and TLS contexts made from the cluster CA's files.

The rule this module guards: bytes never leave this machine in plain text by accident. A listener without TLS
binds to loopback only, unless the operator said ``--insecure``. A caller that knows the CA speaks TLS or not at all.

A certificate is renewed under a running server: its file is looked at again when somebody connects, now and then.
"""

import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloudverge_protocol.errors import Code, ProtocolFault

BACKLOG = 512
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
LOOK_AGAIN_S = 60.0

log = structlog.get_logger("cloudverge.wire")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one server: the cluster CA's certificate, its own certificate and its private key."""

    ca: Path
    certificate: Path
    key: Path


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be reached from this machine; a name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bracketed(host: str) -> str:
    """``host`` as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def check_listener(host: str, *, tls: bool, insecure: bool) -> None:
    """Raise ProtocolFault(INVALID) if listening on ``host`` would put plain text on a network."""
    if tls or insecure or is_loopback(host):
        return
    raise ProtocolFault(
        Code.INVALID,
        f"refusing to listen on {host} without TLS: give a certificate, use 127.0.0.1, or pass --insecure",
    )


def server_tls(files: TlsFiles) -> ssl.SSLContext:
    """The context of a listener: TLS 1.3, at least 1.2, this server's certificate as it is renewed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_chain(context, files)
    context.sni_callback = _Renewal(files).look
    return context


def client_tls(ca: Path) -> ssl.SSLContext:
    """The context of a caller that trusts the cluster CA and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except OSError as error:  # ssl.SSLError is one too
        raise ProtocolFault(Code.INVALID, f"the CA certificate {ca} cannot be used: {_why(error)}") from None
    return context


def _load_chain(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key)
    except OSError as error:
        raise ProtocolFault(
            Code.INVALID,
            f"the certificate {files.certificate} with {files.key} cannot be used: {_why(error)}",
        ) from None


def _why(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


class _Renewal:
    """Takes a renewed certificate into the context of a listener; a bad one is left alone, and logged."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._stamp()
        self._looked_at = time.monotonic()

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._files.certificate.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    def look(self, _connection: object, _name: str | None, context: ssl.SSLContext) -> None:
        """Called by OpenSSL at each handshake; the next one has what is found now."""
        if time.monotonic() < self._looked_at + LOOK_AGAIN_S:
            return
        self._looked_at = time.monotonic()
        stamp = self._stamp()
        if stamp in (self._seen, (0, 0)):
            return
        self._seen = stamp
        try:
            _load_chain(context, self._files)
        except ProtocolFault as fault:
            log.error("a renewed certificate cannot be used", why=fault.message)


def open_listener(host: str, port: int, *, tls: bool = False, insecure: bool = False) -> socket.socket:
    """A bound and listening TCP socket (port 0: any). Raises ProtocolFault, or OSError if the port is taken."""
    check_listener(host, tls=tls, insecure=insecure)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def tune_stream(sock: socket.socket) -> None:
    """Options of a frame connection: no Nagle delay, large buffers, and keepalive that notices a dead peer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
