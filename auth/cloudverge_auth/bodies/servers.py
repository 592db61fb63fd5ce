"""Bodies of what servers ask, and of storage hosts that enter."""

from typing import Annotated

from pydantic import BaseModel, Field

from cloudverge_auth.bodies.fields import Body, Label, Secret

HOST_PATTERN = (
    r"^[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?$|^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*$"  # a name, IPv4, IPv6
)


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
    host: Annotated[str, Field(pattern=HOST_PATTERN, max_length=253)]
    name: Label = ""


class Enrolled(BaseModel):
    """What a storage host needs to start; certificate and CA (PEM) are "" on a cluster without TLS."""

    certificate: str
    ca: str
    join_token: str
    metaserver_url: str
    cluster: str
