"""Fixed loopback ports, chosen once per cluster.

They are taken below the kernel's range for outgoing connections: a port from that range may be in use by
anybody's connection at the very moment a killed server wants it back.
"""

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from cloudverge_protocol.errors import Code, Unavailable

_LOWEST = 12_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 2_000


def settle_ports(names: Iterable[str], kept: Mapping[str, int], rng: random.Random) -> dict[str, int]:
    """A port for each name: the kept one if it has one, else a free one."""
    ports = {name: kept[name] for name in names if name in kept}
    for name in names:
        if name not in ports:
            ports[name] = _find_free(set(ports.values()), rng)
    return ports


def still_free(ports: Mapping[str, int]) -> dict[str, int]:
    """Those of the ports that nobody else listens on now."""
    return {name: port for name, port in ports.items() if is_free(port)}


def is_free(port: int) -> bool:
    """True if a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _find_free(taken: set[int], rng: random.Random) -> int:
    highest = _first_outgoing_port() - 1
    for _ in range(_ATTEMPTS):
        port = rng.randint(_LOWEST, highest)
        if port not in taken and is_free(port):
            return port
    raise Unavailable(Code.UNAVAILABLE, f"no free port between {_LOWEST} and {highest} on 127.0.0.1")


def _first_outgoing_port() -> int:
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError):
        first = 32_768
    return first if first > _LOWEST + 1_000 else 32_768
