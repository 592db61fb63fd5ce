"""A real chunkserver killed, restarted, and filled to the last byte of a real file system."""

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudverge_protocol.checksum import piece_crcs
from cloudverge_protocol.errors import CloudVergeError, Code
from cloudverge_protocol.ids import PROTOCOL_VERSION
from cloudverge_protocol.messages import (
    Append,
    FrameType,
    Hello,
    Read,
    Receipt,
    ReplicaDelete,
)
from cloudverge_protocol.receipts import receipt_is_genuine
from cloudverge_wire.frameclient import FrameClient
from tests.fixtures.chunkprocess import CLUSTER, ChunkProcess, Registrar

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

MIB = 1 << 20


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    with Registrar() as made:
        yield made


@pytest.fixture
def process(tmp_path: Path, registrar: Registrar) -> Iterator[ChunkProcess]:
    made = ChunkProcess(tmp_path, registrar)
    yield made
    made.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "cv-test", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def connect(process: ChunkProcess) -> FrameClient:
    hello = Hello(PROTOCOL_VERSION, process.registrar.entry(), CLUSTER)
    return await FrameClient.connect(*process.frames, lambda: hello)


async def append(
    client: FrameClient,
    registrar: Registrar,
    chunk: int,
    offset: int,
    data: bytes,
    *,
    sync: bool = False,
    limit: int = 64 * MIB,
) -> tuple[int, tuple[Receipt, ...]]:
    ticket = registrar.ticket("append", chunk, limit)
    message = Append(ticket, chunk, 1, offset, tuple(piece_crcs(data, offset)), sync)
    reply, _ = await client.call(FrameType.APPEND, message, (data,))
    return reply.length, reply.receipts


async def content_of(client: FrameClient, registrar: Registrar, chunk: int) -> bytes:
    content = b""
    while True:
        message = Read(registrar.ticket("read"), chunk, len(content) // 65536 * 65536, 4 * MIB)
        reply, body = await client.call(FrameType.READ, message)
        content = content[: reply.start] + bytes(body)
        if len(body) < 4 * MIB:
            return content


async def write_until_killed(
    process: ChunkProcess, data: bytes, after_bytes: int
) -> tuple[int, Receipt | None]:
    """Append and sync pieces of ``data``; the length acknowledged last, and the last receipt.

    The kill comes some appends after ``after_bytes``, at any moment of one.
    """
    client = await connect(process)
    killer: asyncio.TimerHandle | None = None
    acknowledged, receipt = 0, None
    try:
        while acknowledged < len(data):
            if acknowledged >= after_bytes and killer is None:
                killer = asyncio.get_running_loop().call_later(random.random() * 0.02, process.kill)
            size = random.choice([700, 4096, 65536, 300_000])
            sync = random.random() < 0.3
            piece = data[acknowledged : acknowledged + size]
            acknowledged, receipts = await append(
                client, process.registrar, 5, acknowledged, piece, sync=sync
            )
            receipt = receipts[0] if receipts else receipt
    except CloudVergeError:
        pass
    finally:
        if killer is not None:
            killer.cancel()
        client.close()
    return acknowledged, receipt


@pytest.mark.parametrize("round_number", range(3))
async def test_a_killed_server_has_everything_it_acknowledged_and_takes_more(
    process, registrar, round_number
):
    random.seed(round_number)
    data = random.randbytes(60 * MIB)
    process.start()
    acknowledged, receipt = await write_until_killed(process, data, (1 + 10 * round_number) * MIB)
    assert 0 < acknowledged < len(data)
    process.stop()
    process.start()
    client = await connect(process)
    content = await content_of(client, registrar, 5)
    assert len(content) >= acknowledged
    assert content == data[: len(content)]
    if receipt is not None:
        assert receipt_is_genuine(registrar.receipt_key(1), receipt)
        assert receipt.length <= len(content)
    length, _ = await append(client, registrar, 5, len(content), data[len(content) :][:MIB], sync=True)
    assert length > len(content)
    client.close()


async def test_a_disk_that_fills_up_says_so_and_loses_nothing(small_disk, tmp_path, registrar):
    process = ChunkProcess(tmp_path, registrar, "--reserve-bytes", "0")
    process.data_dir = small_disk / "data"
    try:
        process.start()
        client = await connect(process)
        with pytest.raises(CloudVergeError) as caught:  # a promise of 64 MiB cannot be kept here
            await append(client, registrar, 4, 0, b"x")
        assert caught.value.code == Code.NO_SPACE
        data = random.randbytes(8 * MIB)
        length, _ = await append(client, registrar, 5, 0, data[: 2 * MIB], limit=8 * MIB, sync=True)
        hog = small_disk / "hog"
        hog.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 3 * MIB))
        length = await fill(client, registrar, data, length)
        assert 2 * MIB < length < 8 * MIB
        assert await content_of(client, registrar, 5) == data[:length]
        hog.unlink()
        length, receipts = await append(
            client, registrar, 5, length, data[length : length + 3 * MIB], limit=8 * MIB, sync=True
        )
        assert receipts[0].length == length
        assert await content_of(client, registrar, 5) == data[:length]
        await client.call(FrameType.REPLICA_DELETE, ReplicaDelete(registrar.ticket("control"), (5,)))
        await append(client, registrar, 6, 0, bytes(MIB), limit=10 * MIB)
        client.close()
    finally:
        process.stop()


async def fill(client: FrameClient, registrar: Registrar, data: bytes, length: int) -> int:
    """Append until the disk is full; the length reached."""
    while True:
        try:
            piece = data[length : length + MIB]
            length, _ = await append(client, registrar, 5, length, piece, limit=8 * MIB)
        except CloudVergeError as error:
            if error.code != Code.NO_SPACE:
                raise
            return length
