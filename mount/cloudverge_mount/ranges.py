"""The byte ranges that one owner has locked in one file: taking, converting, splitting, merging. Pure.

One owner's claims on a file are sorted by their start and never overlap; two that touch and are of one kind are
one. Ends are in their ranges, as in the FUSE protocol. Nothing here knows of other owners' claims but ``collide``.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

END_MAX: Final = (1 << 63) - 1  # the end of a lock that reaches to the end of the file, wherever that is


class Claim(NamedTuple):
    """What an owner has locked, or wants to. ``pid``: who asked last; it decides nothing."""

    owner: int
    start: int
    end: int
    exclusive: bool
    pid: int


def collide(one: Claim, other: Claim) -> bool:
    """Whether two claims cannot both be had."""
    return (
        one.owner != other.owner
        and (one.exclusive or other.exclusive)
        and one.start <= other.end
        and other.start <= one.end
    )


def without(mine: Iterable[Claim], start: int, end: int) -> list[Claim]:
    """An owner's claims when he has given up a range; what he has around it stays."""
    left: list[Claim] = []
    for claim in mine:
        if claim.end < start or claim.start > end:
            left.append(claim)
            continue
        if claim.start < start:
            left.append(claim._replace(end=start - 1))
        if claim.end > end:
            left.append(claim._replace(start=end + 1))
    return left


def including(mine: Sequence[Claim], new: Claim) -> list[Claim]:
    """An owner's claims when he has got ``new``, which converts what he had in its range."""
    around = without(mine, new.start, new.end)
    before = [claim for claim in around if claim.end < new.start]
    after = [claim for claim in around if claim.start > new.end]
    if before and before[-1].end == new.start - 1 and before[-1].exclusive == new.exclusive:
        new = new._replace(start=before.pop().start)
    if after and after[0].start == new.end + 1 and after[0].exclusive == new.exclusive:
        new = new._replace(end=after.pop(0).end)
    return [*before, new, *after]
