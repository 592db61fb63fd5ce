"""Group commit on a disk that has to be waited for."""

import asyncio
from types import SimpleNamespace

import pytest

from cloudverge_chunkserver.commits import Commits

pytestmark = pytest.mark.anyio


class SlowWorkers:
    """Calls that return when the test says so."""

    def __init__(self):
        self.gates = asyncio.Queue()

    async def run(self, call, *args):
        gate = asyncio.get_running_loop().create_future()
        self.gates.put_nowait(gate)
        await gate
        call(*args)


def open_chunk(length):
    return SimpleNamespaceByIdentity(
        length=length,
        log_end=0,
        durable=0,
        log_durable=0,
        named=True,
        sync_fault=None,
        header=SimpleNamespace(chunk=1),
    )


class SimpleNamespaceByIdentity(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.mark.timeout(10)
async def test_an_append_that_arrives_as_a_sync_ends_gets_a_sync_of_its_own():
    workers = SlowWorkers()
    commits = Commits(SimpleNamespace(in_memory=False, sync=lambda *_: None), workers)
    chunk = open_chunk(10)
    first = asyncio.create_task(commits.durable(chunk, 10))
    gate = await workers.gates.get()
    chunk.length = 20
    gate.set_result(None)  # the sync ends in the next turn of the loop, and in the same turn
    second = asyncio.create_task(commits.durable(chunk, 20))  # the second append starts to wait
    gate = await workers.gates.get()
    assert chunk.durable == 10
    gate.set_result(None)
    await asyncio.gather(first, second)
    assert chunk.durable == 20
