"""Requests of the kernel: made ones, cut ones and random ones."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudverge_mount.fuse import bodies
from cloudverge_mount.fuse.abi import Init, Opcode
from cloudverge_mount.fuse.requests import BadRequest, Decoder

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
NANOSECONDS = st.integers(0, 999_999_999)
TEXT = st.binary(min_size=1, max_size=300).map(lambda text: text.replace(b"\0", b"/"))


def message(opcode, payload, *, size=None, unique=7, node=8, extension=0):
    length = 40 + len(payload) if size is None else size
    return struct.pack("=IIQQIIIHH", length, opcode, unique, node, 1000, 1001, 77, extension, 0) + payload


def decode(data, *, setxattr_ext=True, behind=b"\xff" * 64):
    """Decoded in a buffer with old bytes behind the request, which must not be looked at."""
    return Decoder(setxattr_ext=setxattr_ext).decode(bytearray(data + behind), len(data))


def test_who_asks_is_in_the_header():
    request = decode(message(Opcode.READLINK, b""))
    assert request == (Opcode.READLINK, 7, 8, 1000, 1001, 77, bodies.Readlink())


def test_opcodes_that_are_not_known_have_no_body():
    for opcode in (0, 7, 37, 48, 54, 4096, 2**32 - 1):
        request = decode(message(opcode, b"whatever"))
        assert (request.opcode, request.body) == (opcode, None)


PLAIN = [  # format of the arguments, their type
    (Opcode.FORGET, "Q", bodies.Forget),
    (Opcode.OPEN, "II", bodies.Open),
    (Opcode.READ, "QQIIQI4x", bodies.Read),
    (Opcode.RELEASE, "QIIQ", bodies.Release),
    (Opcode.LISTXATTR, "I4x", bodies.Listxattr),
    (Opcode.FLUSH, "Q8xQ", bodies.Flush),
    (Opcode.OPENDIR, "II", bodies.Opendir),
    (Opcode.READDIR, "QQI20x", bodies.Readdir),
    (Opcode.RELEASEDIR, "QIIQ", bodies.Release),
    (Opcode.GETLK, "QQQQIII4x", bodies.Lock),
    (Opcode.SETLK, "QQQQIII4x", bodies.Lock),
    (Opcode.SETLKW, "QQQQIII4x", bodies.Lock),
    (Opcode.ACCESS, "I4x", bodies.Access),
    (Opcode.INTERRUPT, "Q", bodies.Interrupt),
    (Opcode.POLL, "QQII", bodies.Poll),
    (Opcode.FALLOCATE, "QQQI4x", bodies.Fallocate),
    (Opcode.READDIRPLUS, "QQI20x", bodies.Readdir),
    (Opcode.LSEEK, "QqI4x", bodies.Lseek),
    (Opcode.COPY_FILE_RANGE, "QQQQQQQ", bodies.CopyFileRange),
    (Opcode.COPY_FILE_RANGE_64, "QQQQQQQ", bodies.CopyFileRange),
]


@st.composite
def plain(draw):
    opcode, form, kind = draw(st.sampled_from(PLAIN))
    numbers = {"Q": U64, "I": U32, "q": I64}
    values = [draw(numbers[letter]) for letter in form if letter in numbers]
    return opcode, struct.pack("=" + form, *values), kind(*values)


def times(draw):
    parts = [(draw(I64), draw(NANOSECONDS)) for _ in range(3)]
    return [s for s, _ in parts], [ns for _, ns in parts], [s * 10**9 + ns for s, ns in parts]


@st.composite
def setattr_(draw):
    valid, (fh, size, owner), (mode, uid, gid) = (
        draw(U32),
        *([draw(kind) for _ in range(3)] for kind in (U64, U32)),
    )
    seconds, parts, whole = times(draw)
    payload = struct.pack(
        "=IIQQQqqqIIIIIIII", valid, 0, fh, size, owner, *seconds, *parts, mode, 0, uid, gid, 0
    )
    return Opcode.SETATTR, payload, bodies.Setattr(valid, fh, size, owner, *whole, mode, uid, gid)


@st.composite
def named(draw):
    """Requests with one name, or two."""
    name, other, a, b, c, d = draw(TEXT), draw(TEXT), draw(U32), draw(U32), draw(U32), draw(U32)
    parent, text, both = draw(U64), name + b"\0", name + b"\0" + other + b"\0"
    return draw(
        st.sampled_from(
            [
                (Opcode.LOOKUP, text, bodies.Lookup(name)),
                (Opcode.UNLINK, text, bodies.Unlink(name)),
                (Opcode.RMDIR, text, bodies.Rmdir(name)),
                (Opcode.REMOVEXATTR, text, bodies.Removexattr(name)),
                (Opcode.SYMLINK, both, bodies.Symlink(name, other)),
                (Opcode.MKNOD, struct.pack("=IIII", a, b, c, 0) + text, bodies.Mknod(name, a, b, c)),
                (Opcode.MKDIR, struct.pack("=II", a, b) + text, bodies.Mkdir(name, a, b)),
                (Opcode.CREATE, struct.pack("=IIII", a, b, c, d) + text, bodies.Create(name, a, b, c, d)),
                (Opcode.TMPFILE, struct.pack("=IIII", a, b, c, d) + text, bodies.Create(name, a, b, c, d)),
                (Opcode.RENAME, struct.pack("=Q", parent) + both, bodies.Rename(name, parent, other, 0)),
                (
                    Opcode.RENAME2,
                    struct.pack("=QII", parent, a, 0) + both,
                    bodies.Rename(name, parent, other, a),
                ),
                (Opcode.LINK, struct.pack("=Q", parent) + text, bodies.Link(parent, name)),
                (Opcode.GETXATTR, struct.pack("=II", a, 0) + text, bodies.Getxattr(name, a)),
            ]
        )
    )


@st.composite
def special(draw):
    """Requests with data, or with fields that depend on others."""
    data, name, fh, offset, a, b, c = (
        draw(st.binary()),
        draw(TEXT),
        draw(U64),
        draw(U64),
        *draw(st.tuples(U32, U32, U32)),
    )
    size, handle = len(data), draw(st.booleans())
    shown = fh if handle else None
    pairs = tuple(draw(st.lists(st.tuples(U64, U64), max_size=20)))
    forgets = struct.pack("=II", len(pairs), 0) + b"".join(struct.pack("=QQ", *pair) for pair in pairs)
    write = struct.pack("=QQIIQII", fh, offset, size, a, offset, b, 0)
    return draw(
        st.sampled_from(
            [
                (Opcode.WRITE, write + data, bodies.Write(fh, offset, size, a, offset, b, data)),
                (Opcode.BATCH_FORGET, forgets, bodies.BatchForget(pairs)),
                (Opcode.GETATTR, struct.pack("=IIQ", handle, 0, fh), bodies.Getattr(shown)),
                (Opcode.STATX, struct.pack("=IIQII", handle, 0, fh, a, b), bodies.Statx(shown, a, b)),
                (Opcode.FSYNC, struct.pack("=QII", fh, a, 0), bodies.Fsync(fh, bool(a & 1))),
                (Opcode.FSYNCDIR, struct.pack("=QII", fh, a, 0), bodies.Fsync(fh, bool(a & 1))),
                (
                    Opcode.SETXATTR,
                    struct.pack("=IIII", size, a, b, 0) + name + b"\0" + data,
                    bodies.Setxattr(name, data, a, b),
                ),
                (
                    Opcode.IOCTL,
                    struct.pack("=QIIQII", fh, a, b, offset, size, c) + data,
                    bodies.Ioctl(fh, a, b, offset, c, data),
                ),
                (Opcode.STATFS, b"", bodies.Statfs()),
                (Opcode.DESTROY, b"", bodies.Destroy()),
                (Opcode.SYNCFS, bytes(8), bodies.Syncfs()),
            ]
        )
    )


ANY = st.one_of(plain(), setattr_(), named(), special())


@given(ANY)
def test_arguments_come_out_as_they_went_in(made):
    opcode, payload, body = made
    request = decode(message(opcode, payload))
    assert request == (opcode, 7, 8, 1000, 1001, 77, body)
    assert type(request.body) is type(body)


@given(ANY, st.data())
def test_a_request_that_was_cut_is_refused_or_has_a_body_of_its_own_bytes(made, data):
    opcode, payload, _ = made
    kept = payload[: data.draw(st.integers(0, len(payload)))]
    try:
        assert decode(message(opcode, kept)) == decode(message(opcode, kept), behind=b"")
    except BadRequest:
        pass


@given(ANY)
def test_a_length_that_is_not_that_of_the_header_is_refused(made):
    opcode, payload, _ = made
    for size in (0, 39, 39 + len(payload), 41 + len(payload), 2**32 - 1):
        with pytest.raises(BadRequest, match="header says") as caught:
            decode(message(opcode, payload, size=size))
        assert (caught.value.opcode, caught.value.unique) == (opcode, 7)


@given(st.integers(0, 60), st.binary(max_size=300), st.booleans())
def test_garbage_is_refused_or_decoded(opcode, payload, setxattr_ext):
    try:
        decode(message(opcode, payload), setxattr_ext=setxattr_ext)
    except BadRequest:
        pass


@given(st.binary(max_size=39))
def test_less_than_a_header_is_refused(data):
    with pytest.raises(BadRequest) as caught:
        decode(data)
    assert caught.value.unique is None
    assert caught.value.opcode is None


def test_a_length_beyond_the_buffer_is_refused():
    data = message(Opcode.READLINK, b"", size=100)
    for length in (-1, 41, 100):
        with pytest.raises(BadRequest):
            Decoder().decode(data, length)


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"name", b"na\0me", b"na\0me\0", b"name\0\0", b"n" * 400, b"n" * 300 + b"\0\0"]
)
def test_a_name_ends_with_its_request(payload):
    for opcode in (Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR, Opcode.REMOVEXATTR):
        with pytest.raises(BadRequest):
            decode(message(opcode, payload))


@pytest.mark.parametrize("payload", [b"", b"a\0", b"a\0b", b"\0b\0", b"a\0\0", b"a\0b\0c"])
def test_a_rename_has_two_names(payload):
    for opcode, head in ((Opcode.RENAME, bytes(8)), (Opcode.RENAME2, bytes(16))):
        with pytest.raises(BadRequest):
            decode(message(opcode, head + payload))


@pytest.mark.parametrize(
    "opcode", [Opcode.CREATE, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.TMPFILE]
)
def test_extensions_of_what_is_made_are_ignored(opcode):
    head = {Opcode.MKDIR: bytes(8), Opcode.SYMLINK: b""}.get(opcode, bytes(16)) + b"name\0"
    if opcode == Opcode.SYMLINK:
        head += b"target\0"
    extension = struct.pack("=IIII", 16, 32, 1, 1000)
    plain, extended = message(opcode, head), message(opcode, head + extension, extension=2)
    assert decode(extended) == decode(plain)


def test_bytes_behind_arguments_of_a_fixed_size_are_ignored():
    longer = message(Opcode.OPEN, struct.pack("=II", 2, 1) + b"of a newer kernel")
    assert decode(longer).body == bodies.Open(2, 1)


def test_no_more_is_written_than_was_sent_and_no_less():
    head = struct.pack("=QQIIQII", 1, 2, 5, 0, 0, 0, 0)
    for data in (b"", b"four", b"sixsix"):
        with pytest.raises(BadRequest):
            decode(message(Opcode.WRITE, head + data))


def test_sizes_beyond_the_request_are_refused():
    for opcode, payload in [
        (Opcode.BATCH_FORGET, struct.pack("=II", 2, 0) + bytes(31)),
        (Opcode.BATCH_FORGET, struct.pack("=II", 2**32 - 1, 0) + bytes(32)),
        (Opcode.IOCTL, struct.pack("=QIIQII", 1, 0, 0, 0, 9, 0) + bytes(8)),
        (Opcode.SETXATTR, struct.pack("=IIII", 6, 0, 0, 0) + b"name\0value"),
        (Opcode.SETXATTR, struct.pack("=IIII", 4, 0, 0, 0) + b"name\0value"),
    ]:
        with pytest.raises(BadRequest):
            decode(message(opcode, payload))


def test_setxattr_has_the_form_that_was_agreed_on():
    short = message(Opcode.SETXATTR, struct.pack("=II", 2, 1) + b"user.a\0\0b")
    long = message(Opcode.SETXATTR, struct.pack("=IIII", 2, 1, 1, 0) + b"user.a\0\0b")
    assert decode(short, setxattr_ext=False).body == bodies.Setxattr(b"user.a", b"\0b", 1, 0)
    assert decode(long, setxattr_ext=True).body == bodies.Setxattr(b"user.a", b"\0b", 1, 1)
    for data, form in ((short, True), (long, False)):
        with pytest.raises(BadRequest):
            decode(data, setxattr_ext=form)


def test_init_of_an_older_kernel_has_no_upper_flags():
    assert decode(message(Opcode.INIT, struct.pack("=IIII", 7, 31, 4096, 3))).body == bodies.Init(
        7, 31, 4096, 3
    )
    offer = struct.pack("=IIIII44x", 7, 36, 0, Init.INIT_EXT.value, 5)
    assert decode(message(Opcode.INIT, offer)).body == bodies.Init(7, 36, 0, 5 << 32 | Init.INIT_EXT)
    with pytest.raises(BadRequest):
        decode(message(Opcode.INIT, offer[:-1]))


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(10_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_random_bytes_raise_nothing_but_bad_request(count):
    source = random.Random(20_000)
    decoders = [Decoder(setxattr_ext=False), Decoder(setxattr_ext=True)]
    refused = 0
    for _ in range(count):
        size = source.randrange(120)
        payload = (
            source.randbytes(size) if source.random() < 0.5 else bytes(source.choices(b"\0\0\0\x01a", k=size))
        )
        data = message(
            source.randrange(56), payload, size=None if source.random() < 0.9 else source.randrange(200)
        )
        length = len(data) if source.random() < 0.9 else source.randrange(200)
        try:
            decoders[length & 1].decode(data, length)
        except BadRequest:
            refused += 1
    assert 0.2 < refused / count < 0.8
