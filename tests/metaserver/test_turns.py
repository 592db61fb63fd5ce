"""How much of one user's requests is worked on at a time."""

import asyncio

import pytest

from cloudverge_metaserver.frames import AT_ONCE, FrameRoutes
from cloudverge_protocol.messages import ChunkSeal, Empty, FrameType, Ids, SessionRef

pytestmark = pytest.mark.anyio


class Caller:
    """As much of a connection as the routes look at."""

    def __init__(self, identity) -> None:
        self.identity = identity


async def test_one_user_does_not_take_the_turns_of_others_and_seals_wait_by_themselves(world, make_identity):
    routes = FrameRoutes(world.database, world.sessions, world.chunks, world.reading)
    running, release = [], asyncio.Event()

    async def slow(identity, message):
        running.append((identity.user, type(message)))
        await release.wait()
        return Empty()

    routes.add(FrameType.IDS, slow)
    routes.add(FrameType.SESSION_RENEW, slow)
    routes.add(FrameType.CHUNK_SEAL, slow)
    greedy = Caller(make_identity(user=1))
    asked = [(greedy, FrameType.IDS, Ids(1, 1, 1, 1))] * 20
    asked += [(greedy, FrameType.CHUNK_SEAL, ChunkSeal(1, 1, 1, 1))] * 20
    asked += [(greedy, FrameType.SESSION_RENEW, SessionRef(1, 1, 1))]
    asked += [(Caller(make_identity(user=2)), FrameType.IDS, Ids(1, 1, 1, 1))]
    tasks = [asyncio.ensure_future(routes.handle(*each, memoryview(b""))) for each in asked]
    await asyncio.sleep(0.05)
    assert running.count((1, Ids)) == AT_ONCE
    assert running.count((1, ChunkSeal)) == 1
    assert running.count((1, SessionRef)) == 1, "a renewal does not wait behind them"
    assert running.count((2, Ids)) == 1
    release.set()
    assert len(await asyncio.gather(*tasks)) == 42
