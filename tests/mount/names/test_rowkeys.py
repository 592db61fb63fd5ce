"""Which rows operations meet: what is read off an operation covers what the rules touch."""

from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.rowkeys import inodes_met, names_met
from cloudverge_protocol import operations as op
from cloudverge_protocol.errors import Refused
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.memoryset import MemorySet
from cloudverge_protocol.rules import apply
from cloudverge_protocol.tracking import TrackingSet

NAMES = (b"a", b"b", b"c")
names = st.sampled_from(NAMES)
inos = st.sampled_from((1, 1024, 1025, 1026, 1027))
fresh = st.integers(1024, 1040)

operations = st.one_of(
    st.builds(
        op.Create, inos, names, fresh, fresh, st.sampled_from((0o100644, 0o40755)), st.just(0), st.just(0), st.just(1)
    ),
    st.builds(op.Link, inos, inos, names, fresh, st.just(1)),
    st.builds(op.Unlink, inos, names, inos, st.booleans(), st.just(1)),
    st.builds(op.Rmdir, inos, names, inos, st.booleans(), st.just(1)),
    st.builds(
        op.Rename, inos, names, inos, names, inos, st.sampled_from((0, 1024, 1025)), st.sampled_from((0, 1, 2)),
        st.booleans(), fresh, fresh, st.just(1),
    ),
    st.builds(op.Setattr, inos, st.just(1)),
    st.builds(op.Setxattr, inos, st.just(b"user.a"), st.just(b"1"), st.just(0), st.just(1)),
    st.builds(op.Removexattr, inos, st.just(b"user.a"), st.just(1)),
    st.builds(op.Write, inos, st.just((Extent(0, 3, 9, 0),)), st.just(3), st.just(1), st.just(1)),
    st.builds(op.Truncate, inos, st.just(1), st.just(1)),
    st.builds(op.PunchHole, inos, st.just(1), st.just(1), st.just(1)),
    st.builds(op.CloneRange, inos, st.just(0), st.just(1), inos, st.just(1), st.just(1)),
    st.builds(op.Create, inos, st.just(b""), fresh, st.just(0), st.just(0o100644), st.just(0), st.just(0), st.just(1)),
    st.builds(op.Reap, inos),
)  # fmt: skip


@given(st.lists(operations, max_size=40))
def test_all_rows_that_a_rule_touches_are_rows_of_the_inodes_met(program) -> None:
    rows = MemorySet.with_root()
    for step in program:
        tracked = TrackingSet(rows)
        try:
            apply(step, tracked)
        except Refused:
            pass
        met, named = set(inodes_met(step)), set(names_met(step))
        moves_folder = isinstance(step, op.Rename) and step.parent != step.new_parent
        for key in tracked.keys:
            if key[0] == "d":
                assert key[1:] in named
                assert key[1] in met
            elif not moves_folder or key in tracked.written:  # a move looks at the folders above
                assert key[1] in met
