"""Lines in the log about callers who say what no client of ours says: few, and with nothing in them that was said."""

from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from cloudverge_protocol import codec
from cloudverge_protocol.errors import Code, Denied, ProtocolFault, Refused
from cloudverge_protocol.frames import encode_frame
from cloudverge_protocol.messages import FrameType
from cloudverge_wire import peer
from cloudverge_wire.misconduct import EVERY_S, LINES_MAX, Misconduct


@dataclass
class Ticket:
    sub: str = "7"
    space: int = 3
    session: int = 0
    token: str = "secret"


def test_one_line_a_minute_for_each_caller_and_kind():
    now = 0.0
    noted = Misconduct(lambda: now)
    with capture_logs() as lines:
        for _ in range(100):
            noted.note(Ticket(), "BATCH", Code.NOT_YOURS)
        noted.note(Ticket("8"), "BATCH", Code.NOT_YOURS)
        noted.note(Ticket(), "READ", Code.NOT_YOURS)
        now = EVERY_S
        noted.note(Ticket(), "BATCH", Code.NOT_YOURS)
    assert [(line["sub"], line["request"], line["times"]) for line in lines] == [
        ("7", "BATCH", 1), ("8", "BATCH", 1), ("7", "READ", 1), ("7", "BATCH", 100),
    ]  # fmt: skip
    assert "secret" not in str(lines)


def test_so_many_lines_a_minute_in_all():
    now = 0.0
    noted = Misconduct(lambda: now)
    with capture_logs() as lines:
        for caller in range(5000):
            noted.note(Ticket(str(caller)), "BATCH", Code.NOT_YOURS)
        assert len(lines) == LINES_MAX
        now = EVERY_S
        noted.note(Ticket("new"), "BATCH", Code.NOT_YOURS)
    assert len(lines) == LINES_MAX + 1


def test_what_an_honest_client_may_meet_is_no_news():
    assert ProtocolFault(Code.BAD_REQUEST).is_suspicious
    assert not Refused(Code.INVALID).is_suspicious
    assert not Denied(Code.FENCED).is_suspicious
    harmless = ProtocolFault(Code.BAD_REQUEST)
    harmless.suspicious = False
    assert not harmless.is_suspicious


@pytest.mark.anyio
async def test_a_malformed_request_of_a_known_caller_leaves_a_line(frames, monkeypatch):
    monkeypatch.setattr(peer, "misconduct", Misconduct())
    caller = await frames.raw(await frames.serve(lambda *_: 1 / 0))
    await caller.greet("good-but-lying")
    with capture_logs() as lines:
        await caller.send(encode_frame(FrameType.READ, 5, codec.encode({"ticket": "sesame"})))
        assert (await caller.error()).code == Code.BAD_REQUEST
        await caller.send(encode_frame(9999, 6, b"\x90"))
        assert (await caller.error()).code == Code.BAD_REQUEST
    assert [(line["log_level"], line["request"], line["code"]) for line in lines] == [
        ("warning", "READ", "BAD_REQUEST"), ("warning", "unknown", "BAD_REQUEST"),
    ]  # fmt: skip
    assert "sesame" not in str(lines)
    assert "good-but" not in str(lines)
