"""Where a cluster is: read from an embedded cluster's folder, or named on the command line.

An embedded cluster is known by its folder's ``cluster.json``; it is read again whenever a connection is opened,
because its servers may come back on other ports. Its credentials lie in the same folder.

Where a certificate authority is known nothing is ever sent in plain text.
"""

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from cloudverge_protocol.errors import Code, ProtocolFault, Refused, Unavailable

DATA_DIR_VARIABLE = "CLOUDVERGE_DATA_DIR"
ROOT_FOLDER = Path("/var/lib/cloudverge")
METASERVER_PORT = 7421  # of the frame port, where none is named
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Endpoints:
    """The addresses a mount needs. The cluster's certificate authority, for TLS, is a file or was pinned as PEM."""

    auth_url: str
    metaserver: tuple[str, int]
    cluster: str = ""  # empty: not known yet
    metaserver_url: str = ""  # of its HTTP; empty: not known
    ca: Path | None = None
    ca_pem: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """How to speak TLS with the servers; None where plain text is right (loopback without a CA)."""
        if self.ca is not None or self.ca_pem:
            return trusting(self.ca, self.ca_pem)
        return ssl.create_default_context() if self.auth_url.startswith("https:") else None


def trusting(ca: Path | None, pem: str = "") -> ssl.SSLContext:
    """TLS with servers that this authority vouches for, and with nobody else; 1.3 wherever they speak it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca, cadata=pem or None)
    except OSError as error:  # ssl.SSLError is one too
        why = "it is no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise Refused(
            Code.INVALID, f"the CA certificate {ca or 'that was pinned'} cannot be used: {why}"
        ) from None
    return context


def default_cluster_folder() -> Path:
    """The folder of the cluster of somebody who names none; as ``cv up`` has it."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return ROOT_FOLDER if os.geteuid() == 0 else platformdirs.user_data_path("cloudverge")


def split_address(text: str, default_port: int = METASERVER_PORT) -> tuple[str, int]:
    """``host:port`` or ``host`` as a pair; raises ProtocolFault."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise ProtocolFault(Code.BAD_REQUEST, f"{text!r} is no address: HOST:PORT is expected")
    return host, port or default_port


def load_cluster(folder: Path) -> Endpoints:
    """What ``folder/cluster.json`` says; raises Unavailable when there is none, ProtocolFault when it is bad."""
    path = folder / "cluster.json"
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
        ca = report.get("ca")
        if ca and not str(report["auth_url"]).startswith("https:"):
            raise ValueError("it names a CA, but its servers do not speak TLS")
        return Endpoints(
            auth_url=str(report["auth_url"]),
            metaserver=split_address(str(report["metaserver_frames"])),
            cluster=str(report["cluster"]),
            metaserver_url=str(report.get("metaserver_url") or ""),
            ca=folder / ca if ca else None,
        )
    except FileNotFoundError:
        raise Unavailable(Code.UNREACHABLE, f"there is no cluster in {folder}") from None
    except OSError as error:
        raise Unavailable(Code.UNREACHABLE, f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolFault(Code.BAD_REQUEST, f"{path} is damaged: {error!r}") from None


def supervisor_runs(folder: Path) -> bool:
    """Whether the cluster in ``folder`` has a living supervisor, which keeps its servers running."""
    try:
        pid = int(json.loads((folder / "cluster.json").read_bytes())["supervisor_pid"])
        os.kill(pid, 0)
        return b"cloudverge" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remote(server_url: str, metaserver: str | None, ca: Path | None, ca_pem: str = "") -> Endpoints:
    """A cluster named on the command line; plain HTTP is for this machine only."""
    parts = urlsplit(server_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(Code.INVALID, f"{server_url!r} is no server: https://HOST[:PORT] is expected")
    if parts.scheme == "http" and (ca is not None or ca_pem or parts.hostname not in LOOPBACK):
        raise Refused(Code.INVALID, f"{server_url}: passwords do not travel in plain text, use https")
    address = split_address(metaserver or parts.hostname)
    return Endpoints(server_url.rstrip("/"), address, ca=ca, ca_pem=ca_pem)
