"""What the body of a refused HTTP request says: ``{"code": NAME, "message": TEXT}``.

Read here for whoever asked, so that all of them take it alike. A body of any other kind (a proxy's page, nothing) says
nothing; what then follows from the status is for the reader to decide. Pure, never raises.
"""

import msgspec

from cloudverge_protocol.errors import Code


class Refusal(msgspec.Struct, frozen=True):
    """What was said; ``code`` is None if none of ours was."""

    code: Code | None = None
    message: str = ""


class _Body(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


def read_refusal(body: bytes) -> Refusal:
    """What ``body`` says, or nothing."""
    try:
        said = msgspec.json.decode(body, type=_Body)
    except msgspec.DecodeError:
        return Refusal()
    return Refusal(Code.__members__.get(said.code), said.message)
