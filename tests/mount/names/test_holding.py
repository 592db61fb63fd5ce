"""The order of operations: who waits for whom."""

from cloudverge_mount.holding import Held, Holding
from cloudverge_protocol.inodes import Extent
from cloudverge_protocol.operations import ChunkDone, Rename, Setattr, Write

FOLDER, OTHER = 1, 2
X, Y = 10, 11


def rename(hold: int, ino: int, folder: int = FOLDER) -> Held:
    op = Rename(folder, b"a", folder, b"b", ino, 0, 0, False, 2000 + hold, 0, 0)
    return Held(hold, op, (folder, ino))


def setattr_(hold: int, ino: int) -> Held:
    return Held(hold, Setattr(ino, 0), (ino,))


def write(hold: int, ino: int, chunk: int = 5) -> Held:
    return Held(hold, Write(ino, (Extent(0, 1, chunk, 0),), 1, 0, 0), (ino,))


def waiting(holding: Holding, ino: int = X, number: int = 0) -> Held:
    held = rename(1, ino)
    holding.add(held, [(ino, number)])
    return held


def test_a_rename_waits_until_nothing_of_its_file_is_dirty() -> None:
    holding = Holding()
    held = waiting(holding)
    assert holding.write_passed(X, 5) == []
    assert holding.settled(X) == [held]
    assert holding.release(held) == []
    assert not len(holding)
    assert not holding.blocks((FOLDER, X))


def test_spilled_bytes_are_waited_for_no_longer_than_until_they_have_entered() -> None:
    holding = Holding()
    held = waiting(holding, number=4)
    assert holding.write_passed(X, 3) == []
    assert holding.write_passed(X, 4) == [held]


def test_bytes_spilled_again_over_the_old_ones_are_waited_for_instead() -> None:
    holding = Holding()
    held = waiting(holding, number=4)
    holding.spilled_over(X, 7)
    assert holding.write_passed(X, 6) == []
    assert holding.write_passed(X, 7) == [held]


def test_what_meets_a_held_operation_waits_for_it_and_all_else_passes() -> None:
    holding = Holding()
    first = waiting(holding)
    assert holding.blocks((FOLDER, 99))
    assert not holding.blocks((OTHER, Y))
    second = setattr_(2, X)
    holding.add(second)
    third = rename(3, Y)
    holding.add(third)
    assert holding.settled(X) == [first]
    assert holding.release(first) == [second, third]


def test_a_write_passes_those_that_wait_for_its_bytes_and_what_waits_for_them() -> None:
    holding = Holding()
    first = waiting(holding)
    holding.add(setattr_(2, X))
    assert not holding.blocks_write(X)
    assert holding.settled(X) == [first]


def test_a_write_does_not_pass_what_was_held_before_the_first_that_waits_for_it() -> None:
    holding = Holding()
    other = rename(1, Y)
    holding.add(other, [(Y, 0)])
    made = Held(2, Setattr(X, 0), (FOLDER, X))
    holding.add(made)
    moved = rename(3, X)
    holding.add(moved, [(X, 0)])
    assert holding.blocks_write(X)
    late = write(4, X)
    holding.add_write(late, 0)
    assert holding.settled(X) == []
    assert holding.settled(Y) == [other]
    assert holding.release(other) == [made]
    assert holding.release(made) == [late]
    assert holding.release(late) == [moved]


def test_a_second_write_stays_behind_the_first() -> None:
    holding = Holding()
    holding.add(rename(1, Y), [(Y, 0)])
    holding.add(Held(2, Setattr(X, 0), (FOLDER, X)))
    first, second = write(3, X), write(4, X)
    holding.add_write(first, 0)
    holding.add_write(second, 0)
    (renamed,) = holding.settled(Y)
    (made,) = holding.release(renamed)
    assert holding.release(made) == [first]
    assert holding.release(first) == [second]


def test_a_chunk_is_done_when_no_held_write_names_it() -> None:
    holding = Holding()
    holding.add(rename(1, Y), [(Y, 0)])
    holding.add(Held(2, Setattr(X, 0), (FOLDER, X)))
    late = write(3, X, chunk=5)
    holding.add_write(late, 0)
    assert holding.blocks_done(5)
    assert not holding.blocks_done(6)
    done = Held(4, ChunkDone(5), ())
    holding.add_done(done, 5)
    (renamed,) = holding.settled(Y)
    (made,) = holding.release(renamed)
    holding.release(made)
    assert holding.release(late) == [done]
    assert not holding.blocks_done(5)


def test_fsync_learns_which_files_must_be_stored_first() -> None:
    holding = Holding()
    holding.add(rename(1, Y), [(Y, 0)])
    holding.add(Held(2, Setattr(X, 0), (FOLDER, X)))
    assert {ino for held in holding.before(X) for ino in held.sources} == {Y}
    assert holding.before(99) == []


def test_what_is_given_up_takes_along_all_that_meets_it() -> None:
    holding = Holding()
    first = waiting(holding)
    second = setattr_(2, X)
    holding.add(second)
    third = Held(3, Setattr(Y, 0), (Y,))
    holding.add(third, [(Y, 0)])
    assert holding.after({X}) == [first, second]
    assert holding.after({FOLDER}) == [first, second]


def test_what_stays_held_goes_on_to_hold_others_when_what_came_after_it_is_given_up() -> None:
    holding = Holding()
    first = waiting(holding)
    second, third = setattr_(2, X), setattr_(3, X)
    holding.add(second)
    holding.add(third)
    assert holding.release(third) == holding.release(second) == []
    assert holding.meets(X)
    later = setattr_(4, X)
    holding.add(later)
    assert holding.settled(X) == [first]
    assert holding.release(first) == [later]
    assert holding.release(later) == []
    assert not holding.meets(X)


def test_a_write_stays_behind_what_a_write_that_is_given_up_was_behind() -> None:
    holding = Holding()
    other = rename(1, Y)
    holding.add(other, [(Y, 0)])
    made = Held(2, Setattr(X, 0), (FOLDER, X))
    holding.add(made)
    holding.add(rename(3, X), [(X, 0)])
    lost, late = write(4, X), write(5, X)
    holding.add_write(lost, 0)
    holding.release(lost)
    assert holding.blocks_write(X)
    holding.add_write(late, 0)
    assert holding.settled(Y) == [other]
    assert holding.release(other) == [made]
    assert holding.release(made) == [late]
