"""Bodies of what servers ask, and of storage hosts that enter."""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from cloudverge_auth.bodies.fields import Body, HostName, Secret

HOST_PATTERN = r"^[0-9A-Za-z.:-]+$"
_LABEL = re.compile(r"[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?")


def _is_host(host: str) -> str:
    """An IP address or a DNS name; what ends in digits is an address or nothing."""
    labels = host.split(".")
    if ":" in host or labels[-1].isdigit():
        ip_address(host)
    elif not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must be a host's name or address")
    return host


Host = Annotated[str, Field(pattern=HOST_PATTERN, max_length=253), AfterValidator(_is_host)]


class Revocations(BaseModel):
    """What ended within three minutes: spaces' epochs that were raised, links; and spaces to be purged."""

    spaces: dict[str, int]
    links: list[int]
    deleted: list[int]


class NodeCode(BaseModel):
    """A one-time enrolment code; ``until`` in Unix seconds."""

    code: str
    until: int


class Enrol(Body):
    """A new storage host: its code, its request for a certificate, and the host that others will reach it by."""

    code: Secret
    csr: Annotated[str, Field(max_length=16_384)]
    host: Host
    name: HostName = ""


class Enrolled(BaseModel):
    """What a storage host needs to start; certificate and CA (PEM) are "" on a cluster without TLS."""

    certificate: str
    ca: str
    join_token: str
    metaserver_url: str
    cluster: str
