"""What a storage host keeps of its enrolment: one folder (0700) with its key, certificate, CA and join token (0600).

node.json    which cluster, where, and on which ports; written last: with it the enrolment is complete
ca.pem node.pem node.key join-token
data/        the chunkserver's own folder
"""

import datetime
import errno
import random
import socket
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudverge_chunkserver.enrolment import Enrolled, Key, general_name, names_in
from cloudverge_chunkserver.home import write_private
from cloudverge_protocol.errors import Code, ProtocolFault, Unavailable

RENEW_WITHIN: Final = datetime.timedelta(days=30)
_PORTS: Final = (12_000, 32_000)  # below those that the kernel gives to outgoing connections
_TRIES: Final = 200


class Node(msgspec.Struct, frozen=True):
    """``node.json``."""

    cluster: str
    auth_url: str
    metaserver_url: str
    host: str
    port: int
    frame_port: int
    rack: str = ""


class NodeFolder:
    """The paths and files of one storage host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.authority = root / "ca.pem"
        self.certificate = root / "node.pem"
        self.key = root / "node.key"
        self.join_token = root / "join-token"
        self.log = root / "chunkserver.log"
        self.ready = root / "ready.json"
        self._node = root / "node.json"

    def load(self) -> Node | None:
        """What is known of the enrolment; None before the first."""
        try:
            return msgspec.json.decode(self._node.read_bytes(), type=Node)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise ProtocolFault(
                Code.BAD_REQUEST, f"{self._node} is damaged: remove it and join again"
            ) from None

    def ensure_key(self) -> Key:
        """This machine's private key, made now if there is none."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        if not self.key.exists():
            plain = serialization.NoEncryption()  # the file's mode protects it
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
            write_private(self.key, pem)
        loaded = serialization.load_pem_private_key(self.key.read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return loaded

    def save(self, enrolled: Enrolled, authority: str, node: Node) -> None:
        """Keep an enrolment."""
        write_private(self.authority, authority.encode())
        write_private(self.join_token, enrolled.join_token.encode())
        write_private(self.certificate, enrolled.certificate.encode())
        write_private(self._node, msgspec.json.encode(node))

    def save_node(self, node: Node) -> None:
        """Keep what changed without a new enrolment."""
        write_private(self._node, msgspec.json.encode(node))

    def is_certified(self, host: str, now: datetime.datetime) -> bool:
        """Whether the certificate names ``host`` and lasts for a while."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        lasts = certificate.not_valid_after_utc - now > RENEW_WITHIN
        return lasts and general_name(host) in names_in(certificate)


def address_towards(host: str) -> str:
    """This machine's address as ``host`` sees it; nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(host, 7420, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def free_port(host: str, taken: int = 0) -> int:
    """A port nobody listens on; it is kept from then on."""
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    for _ in range(_TRIES):
        port = random.SystemRandom().randint(*_PORTS)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise Unavailable(
                        Code.UNAVAILABLE, f"this machine cannot listen on {host}: {error.strerror}"
                    ) from None
                continue
        if port != taken:
            return port
    raise Unavailable(Code.UNAVAILABLE, f"no free port between {_PORTS[0]} and {_PORTS[1]} on {host}")
