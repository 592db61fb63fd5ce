"""Rules of content: write, truncate, punch_hole, clone_range, reap, chunk_done.

Invariant: no extent of a file ends beyond its size, so bytes between an old and a larger new size read as
zeroes, and only an operation that makes a file shorter needs to look at regions it does not name. Regions
that hold nothing are never walked: a hole of an exabyte costs nothing.

Whether the chunk bytes that a write names are durable, and whose they are, is the metaserver's to check.
"""

from msgspec.structs import replace

from cloudverge_protocol import extents as arithmetic
from cloudverge_protocol.errors import Code, Refused
from cloudverge_protocol.ids import InodeId, region_of
from cloudverge_protocol.inodes import Extents
from cloudverge_protocol.operations import ChunkDone, CloneRange, PunchHole, Reap, Truncate, Write
from cloudverge_protocol.rules.checks import (
    check_id,
    check_mode,
    check_size,
    check_time,
    regular,
    with_permissions,
)
from cloudverge_protocol.workset import WorkingSet


def check_write(op: Write) -> None:
    """Also: a well-formed extent list within the size given."""
    check_id(op.ino)
    check_size(op.size)
    check_time(op.mtime_ns)
    check_time(op.ctime_ns)
    if op.mode is not None:
        check_mode(op.mode)
    arithmetic.validate(op.extents)
    if op.extents and op.extents[-1].end > op.size:
        raise Refused(
            Code.INVALID,
            f"write to inode {op.ino}: bytes up to {op.extents[-1].end}, but a size of {op.size}",
        )


def write(op: Write, ws: WorkingSet) -> None:
    """Lay extents over the file's content and set its size and times."""
    inode = regular(ws, op.ino)
    after = _beyond(ws, op.ino, op.size) if op.size < inode.size else {}
    for region, new in arithmetic.by_region(op.extents).items():
        old = after[region] if region in after else ws.extents(op.ino, region)
        after[region] = arithmetic.splice(old, new)
    for region, extents in after.items():
        ws.put_extents(op.ino, region, extents)
    mode = with_permissions(inode, op.mode)
    ws.put_inode(replace(inode, size=op.size, mode=mode, mtime_ns=op.mtime_ns, ctime_ns=op.ctime_ns))


def _beyond(ws: WorkingSet, ino: InodeId, size: int) -> dict[int, Extents]:
    """What becomes of each region that holds something at or beyond ``size`` when the file ends there."""
    first = region_of(size)
    after: dict[int, Extents] = {}
    for region in ws.regions(ino):
        if region > first:
            after[region] = ()
        elif region == first:
            old = ws.extents(ino, region)
            kept = arithmetic.truncate(old, size)
            if kept is not old:
                after[region] = kept
    return after


def check_truncate(op: Truncate) -> None:
    check_id(op.ino)
    check_size(op.size)
    check_time(op.now_ns)
    if op.mode is not None:
        check_mode(op.mode)


def truncate(op: Truncate, ws: WorkingSet) -> None:
    """Set the size and give up what lies beyond."""
    inode = regular(ws, op.ino)
    after = _beyond(ws, op.ino, op.size) if op.size < inode.size else {}
    for region, extents in after.items():
        ws.put_extents(op.ino, region, extents)
    mode = with_permissions(inode, op.mode)
    ws.put_inode(replace(inode, size=op.size, mode=mode, mtime_ns=op.now_ns, ctime_ns=op.now_ns))


def check_punch_hole(op: PunchHole) -> None:
    """Also: something to punch."""
    check_id(op.ino)
    for number in (op.offset, op.length):
        check_size(number)
    check_size(op.offset + op.length)
    check_time(op.now_ns)
    if op.mode is not None:
        check_mode(op.mode)
    if op.length == 0:
        raise Refused(Code.INVALID, f"a hole of no bytes in inode {op.ino}")


def punch_hole(op: PunchHole, ws: WorkingSet) -> None:
    """Give up what the range maps; bytes around it stay, and so does the size."""
    inode = regular(ws, op.ino)
    start, end = op.offset, op.offset + op.length
    before = {region: ws.extents(op.ino, region) for region in _regions_within(ws, op.ino, start, end)}
    for region, extents in before.items():
        kept = arithmetic.cut(extents, start, end)
        if kept is not extents:
            ws.put_extents(op.ino, region, kept)
    mode = with_permissions(inode, op.mode)
    ws.put_inode(replace(inode, mode=mode, mtime_ns=op.now_ns, ctime_ns=op.now_ns))


def check_clone_range(op: CloneRange) -> None:
    """Also: something to clone, and not onto itself."""
    check_id(op.src)
    check_id(op.dst)
    for start in (op.src_offset, op.dst_offset, op.length):
        check_size(start)
    check_size(op.src_offset + op.length)
    check_size(op.dst_offset + op.length)
    check_time(op.now_ns)
    if op.mode is not None:
        check_mode(op.mode)
    if op.length == 0:
        raise Refused(Code.INVALID, f"nothing to clone from inode {op.src}")
    if op.src == op.dst and abs(op.src_offset - op.dst_offset) < op.length:
        raise Refused(Code.INVALID, f"inode {op.src}: the ranges to clone from and to overlap")


def clone_range(op: CloneRange, ws: WorkingSet) -> None:
    """Let a range of one file refer to the bytes (and holes) of another's, or of its own."""
    src, dst = regular(ws, op.src), regular(ws, op.dst)
    if op.src_offset + op.length > src.size:
        raise Refused(Code.INVALID, f"inode {op.src} has {src.size} bytes, the range to clone reaches beyond")
    start, end = op.dst_offset, op.dst_offset + op.length
    after = {
        region: arithmetic.cut(ws.extents(op.dst, region), start, end)
        for region in _regions_within(ws, op.dst, start, end)
    }
    cloned = arithmetic.shift(_extents_within(ws, op), op.dst_offset - op.src_offset)
    for region, new in arithmetic.by_region(cloned).items():
        after[region] = arithmetic.splice(after.get(region, ()), new)
    for region, extents in after.items():
        ws.put_extents(op.dst, region, extents)
    size, mode = max(dst.size, end), with_permissions(dst, op.mode)
    ws.put_inode(replace(dst, size=size, mode=mode, mtime_ns=op.now_ns, ctime_ns=op.now_ns))


def _regions_within(ws: WorkingSet, ino: InodeId, start: int, end: int) -> list[int]:
    """The regions of ``ino`` that hold something and meet [start, end), in order."""
    first, last = region_of(start), region_of(end - 1)
    return sorted(region for region in ws.regions(ino) if first <= region <= last)


def _extents_within(ws: WorkingSet, op: CloneRange) -> Extents:
    """The extents of the source range."""
    start, end = op.src_offset, op.src_offset + op.length
    return tuple(
        extent
        for region in _regions_within(ws, op.src, start, end)
        for extent in arithmetic.clip(ws.extents(op.src, region), start, end)
    )


def check_reap(op: Reap) -> None:
    check_id(op.ino)


def reap(op: Reap, ws: WorkingSet) -> None:
    """The end of an orphan of the session that runs this; nothing else can be reaped."""
    inode = ws.inode(op.ino)
    if not ws.is_orphan(op.ino) or (inode is not None and inode.nlink):
        raise Refused(Code.STALE, f"inode {op.ino} is no unlinked open file of this session")
    ws.drop_inode(op.ino)
    ws.drop_orphan(op.ino)


def check_chunk_done(op: ChunkDone) -> None:
    check_id(op.chunk)


def chunk_done(op: ChunkDone, ws: WorkingSet) -> None:
    """Nothing to the namespace: the metaserver ends the writer's pin on the chunk."""
