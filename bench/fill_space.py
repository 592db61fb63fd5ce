#!/usr/bin/env python3
"""fill_space.py --cluster DIR [--user NAME] [--files N] [--folders N] [--deep N]: make a space with a great many files.

Through the metaserver's frames, in batches, as a mount would ship them but without one: a million files take
minutes instead of an hour. Each of the FOLDERS folders of /flat gets FILES / FOLDERS files, /deep gets a tree of
DEEP files, 20 to a folder, eight levels down and more. Every file has 100 to 4,000 bytes that can be read: ranges
of one chunk that is written first.

The space must not be mounted. Started again after an interruption, it goes on under a new top folder.
"""

import argparse
import itertools
import os
import random
import secrets
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cloudverge_mount import credentials
from cloudverge_mount.authclient import AuthClient
from cloudverge_mount.endpoints import load_cluster
from cloudverge_mount.identity import Identity
from cloudverge_mount.link import Link
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.session import Session
from cloudverge_mount.ticketbook import TicketBook
from cloudverge_mount.username import user_name
from cloudverge_protocol.checksum import crc32c
from cloudverge_protocol.ids import BLOCK_BYTES, PROTOCOL_VERSION, ROOT_INODE, SpaceId
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.messages import (
    Append,
    Batch,
    ChunkAllocate,
    FrameType,
    Hello,
    SessionOpen,
)
from cloudverge_protocol.operations import ChunkDone, Create, Entry, Write

BATCH_ENTRIES = 4000
DATA_BYTES = 1 << 20
SMALLEST_BYTES, LARGEST_BYTES = 100, 4000
FILES_A_FOLDER = 20  # of the deep tree


class Filler:
    """A session of its own, and the entries it ships."""

    def __init__(self, meta: MetaClient, session: Session) -> None:
        self._meta, self._session = meta, session
        self._numbers = itertools.count(1)
        self._entries: list[Entry] = []
        self._random = random.Random(1)
        self._chunk = 0
        self._receipts = ()
        self.inodes = 0
        self._started = time.monotonic()
        self._told = 0.0

    async def write_data(self, cluster: str, nursery: trio.Nursery) -> None:
        """The one chunk whose bytes all files share."""
        session, data = self._session, self._random.randbytes(DATA_BYTES)
        (grant,) = (await self._meta.allocate(ChunkAllocate(*_ref(session)))).grants
        crcs = tuple(crc32c(data[at : at + BLOCK_BYTES]) for at in range(0, DATA_BYTES, BLOCK_BYTES))
        first, *onward = grant.places
        tickets = TicketBook(self._meta, session)

        async def hello() -> Hello:
            return Hello(PROTOCOL_VERSION, await tickets.read(first.server), cluster)

        link = Link(lambda: (first.host, first.port), hello, nursery)
        request = Append(grant.ticket, grant.chunk, grant.epoch, 0, crcs, True, tuple(onward))
        reply, _ = await link.call(FrameType.APPEND, request, (data,))
        if reply.failed:
            raise RuntimeError(reply.message)
        link.close()
        self._chunk, self._receipts = grant.chunk, reply.receipts

    async def create(self, parent: int, name: str, mode: int) -> int:
        """One more inode; its number."""
        if len(self._entries) >= BATCH_ENTRIES - 2:
            await self.ship()
        await self._session.ensure_ids(2)
        now_ns, ino, dentry = time.time_ns(), self._session.take_id(), self._session.take_id()
        self._add(Create(parent, name.encode(), ino, dentry, mode, 0, 0, now_ns))
        if stat.S_ISREG(mode):
            size = self._random.randint(SMALLEST_BYTES, LARGEST_BYTES)
            extent = Extent(0, size, self._chunk, self._random.randrange(DATA_BYTES - size))
            self._add(Write(ino, (extent,), size, now_ns, now_ns))
        self.inodes += 1
        return ino

    def _add(self, operation: object) -> None:
        self._entries.append(Entry(self._session.incarnation, next(self._numbers), operation))

    async def ship(self) -> None:
        """Commit what has gathered."""
        if not self._entries:
            return
        entries, self._entries = tuple(self._entries), []
        reply = await self._meta.batch(Batch(*_ref(self._session), self._receipts, entries))
        if reply.refused_number:
            raise RuntimeError(f"entry {reply.refused_number} was refused: {reply.refused_message}")
        self._receipts = ()
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now > self._told + 2:
            self._told = now
            rate = self.inodes / (now - self._started)
            print(f"\r{self.inodes:>9} inodes, {rate:,.0f}/s", end="", file=sys.stderr, flush=True)

    async def finish(self) -> None:
        """The last entries."""
        self._add(ChunkDone(self._chunk))
        await self.ship()
        took = time.monotonic() - self._started
        print(f"\r{self.inodes:>9} inodes in {took:.0f} s" + " " * 20, file=sys.stderr)


def _ref(session: Session) -> tuple[int, int, int]:
    ref = session.ref()
    return ref.session, ref.incarnation, ref.lease_epoch


FOLDER = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644


async def fill_flat(filler: Filler, top: int, files: int, folders: int) -> None:
    """A few folders with very many files each."""
    for number in range(folders):
        folder = await filler.create(top, f"folder-{number}", FOLDER)
        for index in range(files // folders):
            await filler.create(folder, f"file-{index:06}.dat", FILE)


async def fill_deep(filler: Filler, top: int, files: int) -> None:
    """A chain of folders that branches, FILES_A_FOLDER files in each."""
    folders = [top]
    for number in range(files // FILES_A_FOLDER):
        parent = folders[-1] if number % 8 else folders[number // 9]
        folders.append(await filler.create(parent, f"level-{number}", FOLDER))
        for index in range(FILES_A_FOLDER):
            await filler.create(folders[-1], f"leaf-{index}.txt", FILE)


@asynccontextmanager
async def opened(cluster: Path, user: str) -> AsyncIterator[tuple[MetaClient, Session, str, trio.Nursery]]:
    """A session on the user's space."""
    endpoints = load_cluster(cluster)
    async with AuthClient(endpoints.auth_url, endpoints.tls()) as auth, trio.open_nursery() as nursery:
        file = credentials.file_in_cluster_folder(cluster, endpoints.cluster, user)
        identity = Identity(
            auth, file, cluster=endpoints.cluster, user=user or user_name(), device="fill", may_sign_up=True
        )

        async def hello() -> Hello:
            ticket = await identity.ticket()
            return Hello(PROTOCOL_VERSION, ticket.ticket, endpoints.cluster, "", "fill_space")

        meta = MetaClient(Link(lambda: endpoints.metaserver, hello, nursery, tls=endpoints.tls()))
        space = SpaceId((await identity.ticket()).space)
        session = Session(meta, SessionOpen(space, secrets.token_bytes(16), socket.gethostname(), "fill"))
        await session.open()
        nursery.start_soon(session.run)
        yield meta, session, endpoints.cluster, nursery
        await session.close()
        nursery.cancel_scope.cancel()


async def fill(options: argparse.Namespace) -> None:
    """Do it."""
    async with opened(options.cluster, options.user) as (meta, session, cluster, nursery):
        filler = Filler(meta, session)
        await filler.write_data(cluster, nursery)
        top = ROOT_INODE
        if session.used_inodes > 1:
            top = await filler.create(top, f"fill-{os.getpid()}", FOLDER)
        await fill_flat(filler, await filler.create(top, "flat", FOLDER), options.files, options.folders)
        await fill_deep(filler, await filler.create(top, "deep", FOLDER), options.deep)
        await filler.finish()


def main(arguments: Iterable[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cluster", type=Path, required=True, help="folder of a running embedded cluster")
    parser.add_argument("--user", default="", help="whose space; as with cvmount")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=10)
    parser.add_argument("--deep", type=int, default=20_000)
    trio.run(fill, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
