"""Ends of rights: Unix seconds outside, moments inside, and no end at all (0, None)."""

from datetime import UTC, datetime

from cloudverge_protocol.errors import Code, Refused


def moment_of(until_s: int | None) -> datetime | None:
    """A moment in the future from Unix seconds (None or 0: no end); raises Refused(INVALID)."""
    if not until_s:
        return None
    moment = datetime.fromtimestamp(until_s, UTC)
    if moment <= datetime.now(UTC):
        raise Refused(Code.INVALID, "that moment has passed: give a later one")
    return moment


def seconds_of(moment: datetime | None) -> int:
    """Unix seconds; 0: no end."""
    return int(moment.timestamp()) if moment else 0
