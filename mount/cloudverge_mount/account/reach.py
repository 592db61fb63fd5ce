"""Who can reach something, and by which rule: what ``cv who`` and ``cv why`` say. Pure.

``chain`` is the way from the root of the space to the thing, as inode numbers. A grant reaches what has the folder it
gives in its chain; a link reaches its file alone. Servers decide for themselves: this explains, it permits nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloudverge_mount.account.answers import Grant, Member
from cloudverge_mount.account.when import seconds_of, show_when

WRITERS: Final = ("owner", "editor")


@dataclass(frozen=True)
class Reach:
    """One way in: who, as what, by which rule."""

    who: str
    role: str
    rule: str


@dataclass(frozen=True)
class Verdict:
    """``allowed``: the ways in. ``looked_at``: what was looked at and does not help, each with the reason."""

    user: str
    allowed: tuple[Reach, ...]
    looked_at: tuple[str, ...]

    @property
    def may(self) -> bool:
        """Whether the user reaches it at all."""
        return bool(self.allowed)

    @property
    def may_write(self) -> bool:
        """Whether any way in allows to change it."""
        return any(reach.role in WRITERS for reach in self.allowed)


def who_reaches(
    members: Sequence[Member], grants: Sequence[Grant], chain: Sequence[int], now_s: float
) -> list[Reach]:
    """Everybody who can reach the end of ``chain``, members first."""
    found = [_by_membership(member) for member in members]
    return found + [_by_grant(grant) for grant in grants if not why_not(grant, members, chain, now_s)]


def why(
    user: str, members: Sequence[Member], grants: Sequence[Grant], chain: Sequence[int], now_s: float
) -> Verdict:
    """Which rules let ``user`` reach the end of ``chain``, or everything that could have and does not."""
    allowed = [_by_membership(member) for member in members if member.user == user]
    looked_at = [] if allowed else [f"{user} is no member of this space"]
    for grant in grants:
        reason = why_not(grant, members, chain, now_s)
        if grant.kind == "user" and grant.to == user:
            if reason:
                looked_at.append(f"{_name_of(grant)}: {reason}")
            else:
                allowed.append(_by_grant(grant))
        elif grant.kind != "user" and not reason:
            looked_at.append(f"{_name_of(grant)}: lets in whoever has its secret, whoever that is")
    if not any(grant.kind == "user" and grant.to == user for grant in grants):
        looked_at.append(f"no grant is to {user}")
    return Verdict(user, tuple(allowed), tuple(looked_at))


def why_not(grant: Grant, members: Sequence[Member], chain: Sequence[int], now_s: float) -> str:
    """Why a grant does not reach the end of ``chain``; empty: it does."""
    until = seconds_of(grant.until)
    if until and until <= now_s:
        return f"ended on {show_when(until)}"
    if grant.kind == "link" and grant.max_downloads and (grant.downloads or 0) >= grant.max_downloads:
        return f"its {grant.max_downloads} downloads are used up"
    giver = next((member for member in members if member.user == grant.by), None)
    if members and (giver is None or giver.role not in WRITERS):
        return f"{grant.by}, who gave it, is no owner or editor any more"
    if grant.kind == "link":
        return "" if chain and chain[-1] == grant.root else f"it is of another file, {grant.path}"
    return "" if grant.root in chain else f"gives {grant.path or '/'}, and this is not below it"


def _by_membership(member: Member) -> Reach:
    return Reach(member.user, member.role, f"member of the space since {show_when(member.since)}")


def _by_grant(grant: Grant) -> Reach:
    who = {
        "user": grant.to or "",
        "token": f"machine {grant.label or grant.id}",
        "link": "whoever has the link",
    }.get(grant.kind, grant.kind)
    end = f" until {show_when(grant.until)}" if grant.until else ""
    role = "editor" if grant.rw else "reader"
    return Reach(who, role, f"{_name_of(grant)} of {grant.path or '/'} by {grant.by}{end}")


def _name_of(grant: Grant) -> str:
    kind = {"user": "grant", "token": "machine token", "link": "link"}.get(grant.kind, grant.kind)
    return f"{kind} {grant.id}"
