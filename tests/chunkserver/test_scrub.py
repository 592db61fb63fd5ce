"""Background checks find rot that nobody has read yet."""

import os

import pytest

from cloudverge_chunkserver.disk import Part
from cloudverge_chunkserver.scrub import Scrub

pytestmark = pytest.mark.anyio

DATA = os.urandom(200_000)


async def test_a_round_finds_what_has_rotted_and_leaves_the_rest(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    for chunk in (5, 6):
        await client.append(chunk, 0, DATA, sync=True)
        await client.seal(chunk, len(DATA))
    await client.append(7, 0, DATA)
    server.store.disk.write(6, Part.DATA, 70_000, bytes([DATA[70_000] ^ 1]))
    scrub = Scrub(server.replicas, server.workers, 1 << 40)
    await scrub.round()
    assert server.store.damage.chunks() == [6]
    assert server.store.damage.blocks(6) == [1]
    assert scrub.checked_bytes == 2 * len(DATA)


async def test_a_block_that_has_become_good_again_is_cleared_by_a_round(cluster):
    server = await cluster.start(1)
    client = await cluster.client(1)
    await client.append(5, 0, DATA, sync=True)
    await client.seal(5, len(DATA))
    scrub = Scrub(server.replicas, server.workers, 1 << 40)
    for byte, damaged in ((DATA[0] ^ 1, [5]), (DATA[0], [])):
        server.store.disk.write(5, Part.DATA, 0, bytes([byte]))
        await scrub.round()
        assert server.report().damaged == damaged
