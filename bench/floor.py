#!/usr/bin/env python3
"""floor.py [SECONDS]: what one request costs the process that serves it, with each binding, doing nothing else.

Two in-memory filesystems of one file, the kernel's timeouts 0: one on stock pyfuse3 and trio, one on the direct binding
of the mount. Programs ask for one thing again and again; the CPU time of the serving process is divided by the requests
that it counted. Needs root and pyfuse3. The measured binding runs in a process of its own, in turns, three times each.
"""

import ctypes
import errno
import os
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT, FILE = 1, 2
KINDS = ("pyfuse3", "direct")
NAMES = ("LOOKUP", "GETATTR", "OPEN, FLUSH, RELEASE")
AT_EMPTY_PATH, AT_STATX_FORCE_SYNC, BASIC_STATS = 0x1000, 0x2000, 0x7FF  # statx(2)
ROUNDS = 3
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


# --- the filesystems ------------------------------------------------------------------------------------------


def serve_pyfuse3(mountpoint: str) -> None:
    import pyfuse3
    import trio

    class Nothing(pyfuse3.Operations):
        def attr(self, ino):
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = ino
            entry.st_mode = stat.S_IFDIR | 0o755 if ino == ROOT else stat.S_IFREG | 0o644
            entry.st_nlink = 1
            entry.entry_timeout = entry.attr_timeout = 0
            return entry

        async def lookup(self, parent, name, ctx):
            if name != b"file":
                raise pyfuse3.FUSEError(errno.ENOENT)
            return self.attr(FILE)

        async def getattr(self, ino, ctx):
            return self.attr(ino)

        async def open(self, ino, flags, ctx):
            return pyfuse3.FileInfo(fh=ino)

        async def release(self, fh):
            pass

        async def flush(self, fh):
            pass

    pyfuse3.init(Nothing(), mountpoint, {"fsname=floor"})
    print("ready", flush=True)
    trio.run(pyfuse3.main)
    pyfuse3.close(unmount=False)


def serve_direct(mountpoint: str) -> None:
    import trio

    from cloudverge_mount import directmount
    from cloudverge_mount.directbinding import DirectBinding
    from cloudverge_mount.filesystem import Opened
    from cloudverge_protocol.errors import Code, Refused
    from cloudverge_protocol.inodes import Inode, root_inode

    class Nothing:
        def __init__(self):
            root = root_inode(0, 0o755)
            fields = {name: getattr(root, name) for name in Inode.__struct_fields__}
            self.nodes = {ROOT: root, FILE: Inode(**{**fields, "ino": FILE, "mode": stat.S_IFREG | 0o644})}

        async def lookup(self, parent, name):
            if name != b"file":
                raise Refused(Code.NOT_FOUND, "no such file")
            return self.nodes[FILE]

        async def forget(self, pairs):
            pass

        async def getattr(self, ino):
            return self.nodes[ino]

        async def open(self, ino, flags, ctx):
            return Opened(ino)

        async def release(self, fh, flock_owner):
            pass

        async def flush(self, fh, lock_owner):
            pass

    kernel = directmount.DirectMount(Nothing(), Path(mountpoint), {"fsname=floor"}, 29.0, acls=False)
    kernel._binding = DirectBinding(kernel._binding._files, 0.0)  # a mount keeps names for long
    kernel.attach()
    print("ready", flush=True)
    trio.run(kernel.serve)
    kernel.detach()


# --- measuring ------------------------------------------------------------------------------------------------


def workloads(mountpoint: Path, fd: int) -> dict:
    """What sends exactly these requests, every time."""
    absent, again = os.fsencode(mountpoint / "absent"), f"/proc/self/fd/{fd}"
    statx, room = ctypes.CDLL(None).statx, ctypes.create_string_buffer(256)
    flags = ctypes.c_int(AT_EMPTY_PATH | AT_STATX_FORCE_SYNC)

    def open_again() -> None:
        os.close(os.open(again, os.O_WRONLY))

    return {
        "LOOKUP": lambda: os.access(absent, os.F_OK),
        "GETATTR": lambda: statx(fd, b"", flags, BASIC_STATS, room),
        "OPEN, FLUSH, RELEASE": open_again,
    }


def ask(folder: str, name: str, seconds: float) -> None:
    """A program that asks for one thing again and again; how often, in how many seconds."""
    fd = os.open(Path(folder) / "file", os.O_RDONLY)
    act = workloads(Path(folder), fd)[name]
    started, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < started + seconds:
        for _ in range(100):
            act()
        count += 100
    print(count, now - started)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def measure(kind: str, programs: int, seconds: float) -> dict[str, tuple[float, float]]:
    """CPU microseconds of the server for each time, and how many times a second."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([sys.executable, __file__, kind, folder], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for name in NAMES:
            command = [sys.executable, __file__, "ask", folder, name, str(seconds)]
            before = cpu_s(server.pid)
            askers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(programs)]
            told = [asker.communicate()[0].split() for asker in askers]
            count, took = sum(int(each[0]) for each in told), float(told[0][1])
            found[name] = ((cpu_s(server.pid) - before) / count * 1e6, count / took)
        subprocess.run(["umount", folder], check=True)
        server.wait(10)
    return found


def show(programs: int, seconds: float) -> None:
    rounds = [{kind: measure(kind, programs, seconds) for kind in KINDS} for _ in range(ROUNDS)]
    for name in NAMES:
        cpu = {kind: statistics.median(each[kind][name][0] for each in rounds) for kind in KINDS}
        rate = {kind: statistics.median(each[kind][name][1] for each in rounds) for kind in KINDS}
        part = cpu["direct"] / cpu["pyfuse3"]
        told = f"{cpu['pyfuse3']:.1f} | {cpu['direct']:.1f} | {part:.2f} | {rate['pyfuse3']:,.0f} | {rate['direct']:,.0f}"
        print(f"| {name} | {programs} | {told} |", flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["pyfuse3", folder]:
            serve_pyfuse3(folder)
        case ["direct", folder]:
            serve_direct(folder)
        case ["ask", folder, name, seconds]:
            ask(folder, name, float(seconds))
        case rest:
            print(
                "| requests | programs | pyfuse3, CPU us | direct, CPU us | part | pyfuse3, a second | direct, a second |"
            )
            print("|---|--:|--:|--:|--:|--:|--:|")
            for programs in (1, 2):
                show(programs, float(rest[0]) if rest else 3.0)


if __name__ == "__main__":
    main()
