"""Mounts of one owner never accept more together than his quota, whatever the order of what happens."""

from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudverge_metaserver.quotas import LEAST_BYTES, Measure
from cloudverge_mount.quota import Quota, Spent
from cloudverge_protocol.errors import NoRoom

MIB = 1 << 20
QUOTA = 400 * MIB
SPACES = st.sampled_from((0, 0, 1, 1, 2))
PARTS = st.sampled_from((1.0, 0.5, 0.03))


class Mount:
    """One space: what its mount believes, and what the lease's row says."""

    def __init__(self) -> None:
        self.rights = SimpleNamespace(
            used_bytes=0, used_inodes=0, quota_inodes=0, promised_inodes=0, quota_bytes=QUOTA, promised_bytes=1,
            on_claim=lambda claims: None,
        )  # fmt: skip
        self.quota = Quota(self.rights)
        self.committed = self.promised = 0
        self.is_active = False
        self.claims: list[int] = []  # sent, not taken in by the metaserver
        self.answers: list[int] = []  # on their way back

    @property
    def accepted(self) -> int:
        return self.committed + self.quota.entered_bytes


class Promises(RuleBasedStateMachine):
    """One renewal of a mount is under way at a time; claims and answers may be lost on the way."""

    @initialize()
    def begin(self) -> None:
        self.mounts = [Mount() for _ in range(3)]

    def _measure(self, mount: Mount) -> Measure:
        others = [other for other in self.mounts if other is not mount]
        active = [other for other in others if other.is_active]
        return Measure(
            used=mount.committed, quota=0, owner_quota=QUOTA,
            others=sum(other.committed for other in others),
            reserved=sum(max(0, other.promised - other.committed) for other in active),
            active=len(active), kept=mount.promised, share=64 * MIB, least=LEAST_BYTES,
        )  # fmt: skip

    @rule(which=SPACES)
    def open(self, which: int) -> None:
        mount = self.mounts[which]
        if not mount.is_active:
            mount.is_active, mount.promised = True, 0
            mount.promised = mount.rights.promised_bytes = self._measure(mount).promise(1 << 62)
            mount.rights.used_bytes = mount.committed

    @rule(which=SPACES)
    def close(self, which: int) -> None:
        mount = self.mounts[which]
        if not mount.quota.entered_bytes and not mount.claims and not mount.answers:
            mount.is_active = False

    @rule(which=SPACES, wants=st.booleans())
    def claim(self, which: int, wants: bool) -> None:
        mount = self.mounts[which]
        if mount.is_active and not mount.claims and not mount.answers:
            claim = mount.quota.claims(wants)[0]
            mount.rights.promised_bytes = min(mount.rights.promised_bytes, claim)
            mount.claims.append(claim)

    @rule(which=SPACES, is_lost=st.booleans())
    def take_in(self, which: int, is_lost: bool) -> None:
        mount = self.mounts[which]
        if mount.claims:
            claim = mount.claims.pop()
            mount.promised = self._measure(mount).promise(claim)
            if not is_lost:
                mount.answers.append(mount.promised)

    @rule(which=SPACES)
    def lose(self, which: int) -> None:
        self.mounts[which].claims.clear()

    @rule(which=SPACES)
    def hear(self, which: int) -> None:
        mount = self.mounts[which]
        if mount.answers:
            mount.rights.promised_bytes = mount.answers.pop()

    @rule(which=SPACES, part=PARTS)
    def write(self, which: int, part: float) -> None:
        mount = self.mounts[which]
        amount = int((mount.rights.promised_bytes - mount.quota.used_bytes) * part)
        if mount.is_active and amount > 0:
            mount.quota.check_bytes(amount)
            with pytest.raises((Spent, NoRoom)):
                mount.quota.check_bytes(max(amount, mount.rights.promised_bytes - mount.quota.used_bytes) + 1)
            mount.quota.entered_bytes += amount

    @rule(which=SPACES, part=PARTS)
    def commit(self, which: int, part: float) -> None:
        mount = self.mounts[which]
        amount = int(mount.quota.entered_bytes * part)
        mount.committed += amount
        mount.quota.entered_bytes -= amount
        mount.rights.used_bytes = mount.committed

    @rule(which=SPACES, part=PARTS)
    def remove(self, which: int, part: float) -> None:
        mount = self.mounts[which]
        mount.committed -= int(mount.committed * part)
        mount.rights.used_bytes = mount.committed

    @rule(which=SPACES, wants=st.booleans())
    def renew(self, which: int, wants: bool) -> None:
        self.claim(which, wants)
        self.take_in(which, False)
        self.hear(which)

    @invariant()
    @precondition(lambda self: hasattr(self, "mounts"))
    def all_that_was_accepted_can_be_stored(self) -> None:
        assert (
            sum(mount.accepted for mount in self.mounts) <= QUOTA + 3
        )  # a promise of nothing is 1, 0 being none


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
