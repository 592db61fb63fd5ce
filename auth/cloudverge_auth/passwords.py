"""Password hashes: argon2id in threads, a bounded number at a time.

A hash costs 64 MiB and 170 ms of a core, which is its point; so it never runs on the loop, at most ``threads``
run at once, and who would have to wait behind ``MAX_WAITING`` others is told to come back. Checking a password
of an account that does not exist costs the same as of one that does.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from cloudverge_protocol.errors import Code, Unavailable

MAX_WAITING = 64
T = TypeVar("T")


class Passwords:
    """Makes and checks hashes."""

    def __init__(self, threads: int = 2, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._pool = ThreadPoolExecutor(threads, "password")
        self._waiting = 0
        self._dummy = ""

    async def prepare(self) -> None:
        """Make the hash that stands in for those of absent accounts."""
        self._dummy = await self.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """A new hash of ``password``; raises Unavailable if too many are waiting."""
        return await self._run(lambda: self._hasher.hash(password))

    async def check(self, known: str | None, password: str) -> bool:
        """Whether ``password`` is that of the hash ``known``; with None (no such account) no, just as slowly."""
        assert self._dummy, "prepare() comes first"
        right = await self._run(lambda: self._matches(known or self._dummy, password))
        return right and known is not None

    def is_outdated(self, known: str) -> bool:
        """Whether a hash was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(known)

    def _matches(self, known: str, password: str) -> bool:
        try:
            return self._hasher.verify(known, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            busy = Unavailable(Code.UNAVAILABLE, "too many sign-ins at once: try again shortly")
            busy.retry_after_s = 2.0
            raise busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
