"""The rules of a namespace: what each operation does to the rows it touches, and when it is refused.

``apply`` is run twice for every operation: by the mount, before it answers, and by the metaserver, before it
commits. Both must come to the same rows, so the rules are pure: everything that decides is in the operation
or in the working set.

- POSIX decides: errors, link counts, times and the order of checks are those of Linux, as far as they can be
  seen through a system call. Every refusal is a ``Refused`` whose text names what it is about.
- Nothing is written before everything needed has been read: an exception out of the working set ("not
  loaded") or a refusal leaves it untouched, and the operation can be run again.
- ``check`` bounds everything an untrusted peer could send; after it no rule can overflow, loop or raise
  anything but ``Refused``. Work is linear in the rows touched.
- An operation names the inodes it means; a name that leads elsewhere by now is STALE, never followed.
- Rows keep the ``version`` they had (new ones 0): the metaserver stamps what it commits.

Permissions are not checked here. Those of owner, group and others, and the sticky bit, are the kernel's
business (``default_permissions``); roles, quotas, id ranges and who may name which chunk the metaserver's.
Likewise what needs to know the caller (clearing of setuid and setgid by writes and chown, setgid refused
outside one's groups) has been decided by the mount: it stands in the operation.
"""

from collections.abc import Callable
from typing import Any, Final

from cloudverge_protocol import operations as op_kinds
from cloudverge_protocol.operations import Operation
from cloudverge_protocol.rules import attributes, content, names, renames
from cloudverge_protocol.workset import WorkingSet

_Rule = tuple[Callable[[Any], None], Callable[[Any, WorkingSet], None]]

_RULES: Final[dict[type[op_kinds.Op], _Rule]] = {
    op_kinds.Create: (names.check_create, names.create),
    op_kinds.Link: (names.check_link, names.link),
    op_kinds.Unlink: (names.check_removal, names.unlink),
    op_kinds.Rmdir: (names.check_removal, names.rmdir),
    op_kinds.Rename: (renames.check_rename, renames.rename),
    op_kinds.Setattr: (attributes.check_setattr, attributes.setattr),
    op_kinds.Setxattr: (attributes.check_setxattr, attributes.setxattr),
    op_kinds.Removexattr: (attributes.check_removexattr, attributes.removexattr),
    op_kinds.Write: (content.check_write, content.write),
    op_kinds.Truncate: (content.check_truncate, content.truncate),
    op_kinds.CloneRange: (content.check_clone_range, content.clone_range),
    op_kinds.PunchHole: (content.check_punch_hole, content.punch_hole),
    op_kinds.Reap: (content.check_reap, content.reap),
    op_kinds.ChunkDone: (content.check_chunk_done, content.chunk_done),
}


def check(op: Operation) -> None:
    """Refuse an operation that cannot be right whatever the namespace looks like."""
    _RULES[type(op)][0](op)


def apply(op: Operation, ws: WorkingSet) -> None:
    """Do ``op`` to ``ws``, or raise Refused and change nothing."""
    check_alone, run = _RULES[type(op)]
    check_alone(op)
    run(op, ws)
