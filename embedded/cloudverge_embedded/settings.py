"""What a cluster shall be: how many chunkservers and copies, whether the dead are restarted, where it listens.

Fixed by the first ``cv up`` and kept, so that a restart brings back the same endpoints. ``settle`` is pure.
Only ``cv up`` writes settings, under the up lock; the supervisor reads them.
"""

import ipaddress
import re
from enum import StrEnum
from typing import Self

import msgspec

from cloudverge_embedded.atomicfile import read_optional, write_json
from cloudverge_embedded.folder import Folder
from cloudverge_protocol.errors import Code, ProtocolFault, Refused

DEFAULT_CHUNKSERVERS = 3
DEFAULT_REPLICAS = 2
LOOPBACK = "127.0.0.1"
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


class Restart(StrEnum):
    """What happens to a child that died."""

    ALWAYS = "always"
    NEVER = "never"


class Wish(msgspec.Struct, frozen=True):
    """What one ``cv up`` asked for; None leaves it as it is."""

    chunkservers: int | None = None
    replicas: int | None = None
    restart: Restart | None = None
    tls: bool = False  # turns it on; nothing turns it off
    listen: str | None = None


class Settings(msgspec.Struct, frozen=True):
    """The standing order for one cluster."""

    cluster: str
    chunkservers: int
    replicas: int
    restart: Restart = Restart.ALWAYS
    external_database: bool = False
    ports: dict[str, int] = {}
    tls: bool = False
    listen: str = ""  # the address that all servers but PostgreSQL listen on and are known by; "": loopback

    @property
    def host(self) -> str:
        """Where the servers are."""
        return self.listen or LOOPBACK

    def url(self, name: str) -> str:
        """The HTTP address of one server."""
        return f"{'https' if self.tls else 'http'}://{_bracketed(self.host)}:{self.ports[name]}"

    def frames(self, name: str) -> str | None:
        """The frame address of one server, if it has one."""
        port = self.ports.get(f"{name}.frames")
        return f"{_bracketed(self.host)}:{port}" if port else None

    @classmethod
    def load(cls, folder: Folder) -> Self | None:
        """The settings of an existing cluster, or None for a new one."""
        content = read_optional(folder.settings_file)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=cls)
        except msgspec.DecodeError as error:
            raise ProtocolFault(Code.BAD_REQUEST, f"{folder.settings_file} is damaged: {error}") from error

    def save(self, folder: Folder) -> None:
        """Write the settings, whole or not at all."""
        write_json(folder.settings_file, self)


def settle(old: Settings | None, wish: Wish, cluster: str, external_database: bool) -> Settings:
    """The settings after a wish: a new cluster gets defaults, an old one may grow but not shrink."""
    if old is None:
        chunkservers = wish.chunkservers or DEFAULT_CHUNKSERVERS
        replicas = wish.replicas or min(DEFAULT_REPLICAS, chunkservers)
        restart = wish.restart or Restart.ALWAYS
        new = Settings(cluster, chunkservers, replicas, restart, external_database)
    else:
        new = msgspec.structs.replace(
            old,
            chunkservers=max(old.chunkservers, wish.chunkservers or 0),
            replicas=wish.replicas or old.replicas,
            restart=wish.restart or old.restart,
        )
    new = _with_network(new, wish)
    if new.replicas > new.chunkservers:
        raise Refused(
            Code.INVALID,
            f"{new.replicas} replicas need at least as many chunkservers, and there are {new.chunkservers}",
        )
    return new


def _with_network(settings: Settings, wish: Wish) -> Settings:
    if wish.listen is not None:
        _check_address(wish.listen)
    listen = settings.listen if wish.listen is None else wish.listen
    tls = settings.tls or wish.tls or bool(listen)
    return msgspec.structs.replace(settings, tls=tls, listen=listen)


def _check_address(address: str) -> None:
    """Others must be able to reach the servers by it, so it is one address, or a host name."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        if HOST_NAME.fullmatch(address) is None:
            raise Refused(
                Code.INVALID,
                f"{address!r} is no address of this machine: give one, or a host name, without a port",
            ) from None
        return
    if parsed.is_unspecified:
        raise Refused(
            Code.INVALID, f"others cannot reach this machine at {address}: name one of its addresses"
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def server_names(settings: Settings) -> list[str]:
    """The servers that are our own programs."""
    return ["auth", "metaserver-1", *chunkserver_names(settings)]


def chunkserver_names(settings: Settings) -> list[str]:
    """The chunkservers' names, in order."""
    return [f"chunkserver-{number}" for number in range(1, settings.chunkservers + 1)]


def port_names(settings: Settings) -> list[str]:
    """Every port a cluster needs, by name."""
    framed = ["metaserver-1", *chunkserver_names(settings)]
    own_database = [] if settings.external_database else ["postgres"]
    return [*own_database, "auth", *framed, *(f"{name}.frames" for name in framed)]
