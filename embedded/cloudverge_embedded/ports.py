"""Fixed ports, chosen once per cluster. A cluster that others reach has the well-known ones, if they are free.

They are taken below the kernel's range for outgoing connections: a port from that range may be in use by
anybody's connection at the very moment a killed server wants it back.
"""

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from cloudverge_embedded.settings import LOOPBACK
from cloudverge_protocol.errors import Code, Refused, Unavailable

WELL_KNOWN = {"auth": 7420, "metaserver-1.frames": 7421}
_LOWEST = 12_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 2_000


def settle_ports(
    names: Iterable[str], kept: Mapping[str, int], rng: random.Random, host: str = LOOPBACK
) -> dict[str, int]:
    """A port for each name: the kept one if it has one, else a free one."""
    ports = {name: kept[name] for name in names if name in kept}
    for name in names:
        if name not in ports:
            taken, wanted = set(ports.values()), WELL_KNOWN.get(name, 0)
            is_wanted = host != LOOPBACK and wanted and wanted not in taken and is_free(wanted, host)
            ports[name] = wanted if is_wanted else _find_free(taken, rng, host)
    return ports


def still_free(ports: Mapping[str, int], host: str = LOOPBACK) -> dict[str, int]:
    """Those of the ports that nobody else listens on now."""
    return {name: port for name, port in ports.items() if is_free(port, host)}


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True if a server could listen on this port now, here and on loopback."""
    return all(_can_bind(each, port) is None for each in {LOOPBACK, host})


def check_host(host: str) -> None:
    """Raise Refused if no server could listen on ``host``."""
    why = _can_bind(host, 0)
    if why is not None:
        raise Refused(Code.INVALID, f"this machine cannot listen on {host}: {why}")


def _can_bind(host: str, port: int) -> str | None:
    """What is in the way, or None."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _find_free(taken: set[int], rng: random.Random, host: str) -> int:
    highest = _first_outgoing_port() - 1
    for _ in range(_ATTEMPTS):
        port = rng.randint(_LOWEST, highest)
        if port not in taken and is_free(port, host):
            return port
    raise Unavailable(Code.UNAVAILABLE, f"no free port between {_LOWEST} and {highest} on {host}")


def _first_outgoing_port() -> int:
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError):
        first = 32_768
    return first if first > _LOWEST + 1_000 else 32_768
