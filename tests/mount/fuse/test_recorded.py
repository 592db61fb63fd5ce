"""Requests that a real kernel has sent, byte by byte."""

import pytest

from cloudverge_mount.fuse import bodies
from cloudverge_mount.fuse.abi import Opcode, SetattrValid
from cloudverge_mount.fuse.requests import Decoder, Request

DECODER = Decoder(setxattr_ext=True)

# Of a kernel that speaks 7.45, with SETXATTR_EXT agreed on: opcode, unique, node, body, all bytes
RECORDED = [
    (
        Opcode.LOOKUP,
        4,
        1,
        bodies.Lookup(name=b"hello.txt"),
        "32000000010000000400000000000000010000000000000000000000000000008c0c00000000000068656c6c6f2e74787400",
    ),
    (
        Opcode.FORGET,
        170,
        2000,
        bodies.Forget(nlookup=4),
        "3000000002000000aa00000000000000d007000000000000000000000000000000000000000000000400000000000000",
    ),
    (
        Opcode.GETATTR,
        10,
        1,
        bodies.Getattr(fh=None),
        "38000000030000000a00000000000000010000000000000000000000000000008c0c00000000000000000000000000000000000000000000",
    ),
    (
        Opcode.SETATTR,
        44,
        2000,
        bodies.Setattr(
            valid=584,
            fh=77,
            size=123,
            lock_owner=10304346041809968993,
            atime_ns=0,
            mtime_ns=0,
            ctime_ns=0,
            mode=0,
            uid=0,
            gid=0,
        ),
        "80000000040000002c00000000000000d00700000000000000000000000000008c0c00000000000048020000000000004d000000000000007b00000000000000611fc9582164008f0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        Opcode.SETATTR,
        46,
        2000,
        bodies.Setattr(
            valid=48,
            fh=0,
            size=0,
            lock_owner=0,
            atime_ns=1600000000111111111,
            mtime_ns=-5000000001,
            ctime_ns=0,
            mode=0,
            uid=0,
            gid=0,
        ),
        "80000000040000002e00000000000000d00700000000000000000000000000008c0c000000000000300000000000000000000000000000000000000000000000000000000000000000105e5f00000000faffffffffffffff0000000000000000c76b9f06ffc99a3b000000000000000000000000000000000000000000000000",
    ),
    (
        Opcode.SETATTR,
        54,
        2000,
        bodies.Setattr(
            valid=2054, fh=0, size=0, lock_owner=0, atime_ns=0, mtime_ns=0, ctime_ns=0, mode=0, uid=12, gid=13
        ),
        "80000000040000003600000000000000d00700000000000000000000000000008c0c000000000000060800000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000c0000000d00000000000000",
    ),
    (
        Opcode.READLINK,
        106,
        3003,
        bodies.Readlink(),
        "28000000050000006a00000000000000bb0b00000000000000000000000000008c0c000000000000",
    ),
    (
        Opcode.SYMLINK,
        104,
        1,
        bodies.Symlink(name=b"link", target=b"target"),
        "34000000060000006800000000000000010000000000000000000000000000008c0c0000000000006c696e6b0074617267657400",
    ),
    (
        Opcode.MKNOD,
        118,
        1,
        bodies.Mknod(name=b"null", mode=8612, rdev=1114924, umask=18),
        "3d000000080000007600000000000000010000000000000000000000000000008c0c000000000000a42100002c03110012000000000000006e756c6c00",
    ),
    (
        Opcode.MKDIR,
        100,
        1,
        bodies.Mkdir(name=b"folder", mode=488, umask=18),
        "37000000090000006400000000000000010000000000000000000000000000008c0c000000000000e801000012000000666f6c64657200",
    ),
    (
        Opcode.UNLINK,
        128,
        1,
        bodies.Unlink(name=b"fourth"),
        "2f0000000a0000008000000000000000010000000000000000000000000000008c0c000000000000666f7572746800",
    ),
    (
        Opcode.RMDIR,
        130,
        1,
        bodies.Rmdir(name=b"folder"),
        "2f0000000b0000008200000000000000010000000000000000000000000000008c0c000000000000666f6c64657200",
    ),
    (
        Opcode.RENAME,
        122,
        1,
        bodies.Rename(name=b"second", new_parent=1, new_name=b"third", flags=0),
        "3d0000000c0000007a00000000000000010000000000000000000000000000008c0c00000000000001000000000000007365636f6e6400746869726400",
    ),
    (
        Opcode.LINK,
        110,
        1,
        bodies.Link(ino=2000, new_name=b"second"),
        "370000000d0000006e00000000000000010000000000000000000000000000008c0c000000000000d0070000000000007365636f6e6400",
    ),
    (
        Opcode.OPEN,
        28,
        2000,
        bodies.Open(flags=32770, open_flags=0),
        "300000000e0000001c00000000000000d00700000000000000000000000000008c0c0000000000000280000000000000",
    ),
    (
        Opcode.READ,
        30,
        2000,
        bodies.Read(fh=77, offset=0, size=8192, read_flags=0, lock_owner=0, flags=32770),
        "500000000f0000001e00000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000000000000000000002000000000000000000000000000000280000000000000",
    ),
    (
        Opcode.WRITE,
        34,
        2000,
        bodies.Write(
            fh=77, offset=3, size=12, write_flags=0, lock_owner=0, flags=32770, data=b"written data"
        ),
        "5c000000100000002200000000000000d00700000000000000000000000000008c0c0000000000004d0000000000000003000000000000000c00000000000000000000000000000002800000000000007772697474656e2064617461",
    ),
    (
        Opcode.STATFS,
        156,
        1,
        bodies.Statfs(),
        "28000000110000009c00000000000000010000000000000000000000000000008c0c000000000000",
    ),
    (
        Opcode.RELEASE,
        96,
        2000,
        bodies.Release(fh=77, flags=32770, release_flags=2, lock_owner=8276329020263383793),
        "40000000120000006000000000000000d007000000000000000000000000000000000000000000004d000000000000000280000002000000f1420ee1646ddb72",
    ),
    (
        Opcode.FSYNC,
        36,
        2000,
        bodies.Fsync(fh=77, datasync=False),
        "38000000140000002400000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000000000000000000",
    ),
    (
        Opcode.FSYNC,
        38,
        2000,
        bodies.Fsync(fh=77, datasync=True),
        "38000000140000002600000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000100000000000000",
    ),
    (
        Opcode.SETXATTR,
        72,
        2000,
        bodies.Setxattr(name=b"user.colour", value=b"bl\x00ue", flags=1, setxattr_flags=0),
        "49000000150000004800000000000000d00700000000000000000000000000008c0c00000000000005000000010000000000000000000000757365722e636f6c6f757200626c007565",
    ),
    (
        Opcode.GETXATTR,
        74,
        2000,
        bodies.Getxattr(name=b"user.colour", size=128),
        "3c000000160000004a00000000000000d00700000000000000000000000000008c0c0000000000008000000000000000757365722e636f6c6f757200",
    ),
    (
        Opcode.LISTXATTR,
        76,
        2000,
        bodies.Listxattr(size=256),
        "30000000170000004c00000000000000d00700000000000000000000000000008c0c0000000000000001000000000000",
    ),
    (
        Opcode.REMOVEXATTR,
        78,
        2000,
        bodies.Removexattr(name=b"user.colour"),
        "34000000180000004e00000000000000d00700000000000000000000000000008c0c000000000000757365722e636f6c6f757200",
    ),
    (
        Opcode.FLUSH,
        90,
        3001,
        bodies.Flush(fh=78, lock_owner=10304346041809968993),
        "40000000190000005a00000000000000b90b00000000000000000000000000008c0c0000000000004e000000000000000000000000000000611fc9582164008f",
    ),
    (
        Opcode.INIT,
        2,
        0,
        bodies.Init(major=7, minor=45, max_readahead=131072, flags=6586131021819),
        "680000001a0000000200000000000000000000000000000000000000000000000000000000000000070000002d00000000000200fbffff73fd0500000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        Opcode.OPENDIR,
        8,
        1,
        bodies.Opendir(flags=100352, open_flags=0),
        "300000001b0000000800000000000000010000000000000000000000000000008c0c0000000000000088010000000000",
    ),
    (
        Opcode.READDIR,
        14,
        1,
        bodies.Readdir(fh=77, offset=3, size=65536),
        "500000001c0000000e00000000000000010000000000000000000000000000008c0c0000000000004d000000000000000300000000000000000001000000000000000000000000000088010000000000",
    ),
    (
        Opcode.RELEASEDIR,
        16,
        1,
        bodies.Release(fh=77, flags=100352, release_flags=0, lock_owner=0),
        "400000001d00000010000000000000000100000000000000000000000000000000000000000000004d0000000000000000880100000000000000000000000000",
    ),
    (
        Opcode.FSYNCDIR,
        136,
        1,
        bodies.Fsync(fh=77, datasync=False),
        "380000001e0000008800000000000000010000000000000000000000000000008c0c0000000000004d000000000000000000000000000000",
    ),
    (
        Opcode.GETLK,
        60,
        2000,
        bodies.Lock(fh=77, owner=10304346041809968993, start=5, end=14, type=1, pid=0, lk_flags=0),
        "580000001f0000003c00000000000000d00700000000000000000000000000008c0c0000000000004d00000000000000611fc9582164008f05000000000000000e0000000000000001000000000000000000000000000000",
    ),
    (
        Opcode.SETLK,
        68,
        2000,
        bodies.Lock(
            fh=77, owner=8276329020263383793, start=0, end=9223372036854775807, type=1, pid=3212, lk_flags=1
        ),
        "58000000200000004400000000000000d00700000000000000000000000000008c0c0000000000004d00000000000000f1420ee1646ddb720000000000000000ffffffffffffff7f010000008c0c00000100000000000000",
    ),
    (
        Opcode.SETLKW,
        66,
        2000,
        bodies.Lock(
            fh=77, owner=10304346041809968993, start=0, end=9223372036854775807, type=2, pid=0, lk_flags=0
        ),
        "58000000210000004200000000000000d00700000000000000000000000000008c0c0000000000004d00000000000000611fc9582164008f0000000000000000ffffffffffffff7f02000000000000000000000000000000",
    ),
    (
        Opcode.ACCESS,
        152,
        2000,
        bodies.Access(mask=2),
        "30000000220000009800000000000000d00700000000000000000000000000008c0c0000000000000200000000000000",
    ),
    (
        Opcode.CREATE,
        82,
        1,
        bodies.Create(name=b"new.bin", flags=32961, mode=33184, umask=18, open_flags=0),
        "40000000230000005200000000000000010000000000000000000000000000008c0c000000000000c1800000a081000012000000000000006e65772e62696e00",
    ),
    (
        Opcode.IOCTL,
        140,
        1,
        bodies.Ioctl(fh=77, flags=16, cmd=2148034049, arg=0, out_size=4, data=b""),
        "48000000270000008c00000000000000010000000000000000000000000000008c0c0000000000004d00000000000000100000000166088000000000000000000000000004000000",
    ),
    (
        Opcode.IOCTL,
        160,
        2000,
        bodies.Ioctl(
            fh=77,
            flags=0,
            cmd=3221775938,
            arg=140721913102832,
            out_size=8,
            data=b"\x01\x01\x01\x01\x01\x01\x01\x01",
        ),
        "5000000027000000a000000000000000d00700000000000000000000000000008c0c0000000000004d0000000000000000000000426608c0f081a45ffc7f000008000000080000000101010101010101",
    ),
    (
        Opcode.POLL,
        162,
        2000,
        bodies.Poll(fh=77, kh=8, flags=0, events=31),
        "4000000028000000a200000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000800000000000000000000001f000000",
    ),
    (
        Opcode.FALLOCATE,
        86,
        3001,
        bodies.Fallocate(fh=78, offset=4096, length=8192, mode=1),
        "480000002b0000005600000000000000b90b00000000000000000000000000008c0c0000000000004e00000000000000001000000000000000200000000000000100000000000000",
    ),
    (
        Opcode.READDIRPLUS,
        12,
        1,
        bodies.Readdir(fh=77, offset=0, size=65536),
        "500000002c0000000c00000000000000010000000000000000000000000000008c0c0000000000004d000000000000000000000000000000000001000000000000000000000000000088010000000000",
    ),
    (
        Opcode.RENAME2,
        126,
        1,
        bodies.Rename(name=b"third", new_parent=1, new_name=b"fourth", flags=1),
        "450000002d0000007e00000000000000010000000000000000000000000000008c0c00000000000001000000000000000100000000000000746869726400666f7572746800",
    ),
    (
        Opcode.LSEEK,
        58,
        2000,
        bodies.Lseek(fh=77, offset=10, whence=4),
        "400000002e0000003a00000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000a000000000000000400000000000000",
    ),
    (
        Opcode.TMPFILE,
        146,
        1,
        bodies.Create(name=b"/", flags=4292610, mode=33152, umask=18, open_flags=0),
        "3a000000330000009200000000000000010000000000000000000000000000008c0c000000000000028041008081000012000000000000002f00",
    ),
    (
        Opcode.STATX,
        168,
        2000,
        bodies.Statx(fh=None, sx_flags=0, sx_mask=4095),
        "4000000034000000a800000000000000d00700000000000000000000000000008d0c0000000000000000000000000000000000000000000000000000ff0f0000",
    ),
    (
        Opcode.COPY_FILE_RANGE_64,
        88,
        2000,
        bodies.CopyFileRange(
            fh_in=77, offset_in=0, node_out=3001, fh_out=78, offset_out=0, length=100, flags=0
        ),
        "60000000350000005800000000000000d00700000000000000000000000000008c0c0000000000004d000000000000000000000000000000b90b0000000000004e00000000000000000000000000000064000000000000000000000000000000",
    ),
]


@pytest.mark.parametrize(
    ("opcode", "unique", "node", "body", "recorded"), RECORDED, ids=lambda value: getattr(value, "name", "")
)
def test_what_a_kernel_has_sent_is_understood(opcode, unique, node, body, recorded):
    data = bytes.fromhex(recorded)
    request = DECODER.decode(data, len(data))
    assert (request.opcode, request.unique, request.node, request.body) == (opcode, unique, node, body)
    assert type(request) is Request
    assert type(request.body) is type(body)
    assert (request.uid, request.gid) == (0, 0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_any_kind_of_buffer_will_do(kind):
    for opcode, unique, node, body, recorded in RECORDED:
        data = bytes.fromhex(recorded)
        request = DECODER.decode(kind(data + b"old"), len(data))
        assert request[:3] == (opcode, unique, node)
        assert request.body == body


def test_what_is_decoded_survives_its_buffer():
    for *_, body, recorded in RECORDED:
        data = bytes.fromhex(recorded)
        buffer = bytearray(data)
        request = DECODER.decode(buffer, len(data))
        buffer[:] = b"\xee" * 3  # a buffer that is still viewed could not be resized
        assert request.body == body


def test_a_truncation_says_that_size_and_handle_count():
    (body,) = (body for opcode, *_, body, _ in RECORDED if opcode == Opcode.SETATTR and body.size)
    assert SetattrValid(body.valid) == SetattrValid.SIZE | SetattrValid.FH | SetattrValid.LOCKOWNER
