"""What a cluster shall be: how many chunkservers and copies, whether the dead are restarted, on which ports.

Fixed by the first ``cv up`` and kept, so that a restart brings back the same endpoints. ``settle`` is pure.
Only ``cv up`` writes settings, under the up lock; the supervisor reads them.
"""

from enum import StrEnum
from typing import Self

import msgspec

from cloudverge_embedded.atomicfile import read_optional, write_json
from cloudverge_embedded.folder import Folder
from cloudverge_protocol.errors import Code, ProtocolFault, Refused

DEFAULT_CHUNKSERVERS = 3
DEFAULT_REPLICAS = 2


class Restart(StrEnum):
    """What happens to a child that died."""

    ALWAYS = "always"
    NEVER = "never"


class Wish(msgspec.Struct, frozen=True):
    """What one ``cv up`` asked for; None leaves it as it is."""

    chunkservers: int | None = None
    replicas: int | None = None
    restart: Restart | None = None


class Settings(msgspec.Struct, frozen=True):
    """The standing order for one cluster."""

    cluster: str
    chunkservers: int
    replicas: int
    restart: Restart = Restart.ALWAYS
    external_database: bool = False
    ports: dict[str, int] = {}

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
    if new.replicas > new.chunkservers:
        raise Refused(
            Code.INVALID,
            f"{new.replicas} replicas need at least as many chunkservers, and there are {new.chunkservers}",
        )
    return new


def chunkserver_names(settings: Settings) -> list[str]:
    """The chunkservers' names, in order."""
    return [f"chunkserver-{number}" for number in range(1, settings.chunkservers + 1)]


def port_names(settings: Settings) -> list[str]:
    """Every port a cluster needs, by name."""
    framed = ["metaserver-1", *chunkserver_names(settings)]
    own_database = [] if settings.external_database else ["postgres"]
    return [*own_database, "auth", *framed, *(f"{name}.frames" for name in framed)]
