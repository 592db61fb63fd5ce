"""CloudVerge itself as a system under test, and the floor it stands on: a no-op pyfuse3 filesystem."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from peer import HERE, Peer, wait

BIN = Path(sys.executable).parent


class CloudVerge(Peer):
    """Three chunkservers, two replicas, PostgreSQL, auth and metaserver; one mount, unmounted by cvumount.

    All stores (PostgreSQL's too) and the client's cache lie on tmpfs; "-disk": on the real disk, for fsync's
    sake; "-tls": every wire but PostgreSQL's is encrypted; "-direct": our own FUSE binding serves the mount instead of
    pyfuse3. A remount wipes the client's whole cache folder, so that "cold" is as cold as for a new device.
    """

    second = False

    def __init__(self, name):
        super().__init__(name)
        self.is_secured = name.endswith("-tls")
        self.binding = "direct" if name.endswith("-direct") else "pyfuse3"
        if name.endswith("-disk"):
            self.root = Path(f"/var/tmp/peer-{name}")
        self.barrier = f"{BIN}/cv sync {self.mounts[0]}"

    def servers(self):
        self.call(
            BIN / "cv",
            "up",
            "--dir",
            self.root / "cluster",
            "--chunkservers",
            "3",
            "--replicas",
            "2",
            "--json",
            *(("--tls",) if self.is_secured else ()),
        )

    def mount(self, m):
        cache = self.root / "cache"
        self.call(
            BIN / "cvmount",
            "--cluster",
            self.root / "cluster",
            "--cache-dir",
            cache,
            "-o",
            f"preserve_owner,fuse={self.binding}",
            m,
        )

    def remount(self):
        self.umount(self.mounts[0])
        self.forget()
        self.mount(self.mounts[0])

    def umount(self, m):
        self.call(BIN / "cvumount", m)  # returns when all is uploaded and the process has ended
        wait(f"end of the mount at {m}", lambda: not os.path.ismount(m), 110)

    def forget(self):
        shutil.rmtree(self.root / "cache")

    def stop(self):
        if (self.root / "cluster").exists():
            for m in self.mounts:
                if os.path.ismount(m):
                    subprocess.run(["umount", "-l", m])
            self.call(BIN / "cv", "down", "--dir", self.root / "cluster", check=False)
        super().stop()

    def note(self):
        where = "the real disk" if self.name.endswith("-disk") else "tmpfs"
        python = ".".join(map(str, sys.version_info[:3]))
        return (
            f"CloudVerge: PostgreSQL, auth, metaserver, 3 chunkservers, 2 replicas, every acknowledged fsync "
            f"fsynced by both and committed; all stores and the client's cache on {where}; "
            f"{'TLS 1.3 on every wire but the database' if self.is_secured else 'plain text on loopback'}; FUSE: {self.binding}; CPython {python}"
        )


class Noop(Peer):
    """The cheapest honest answer pyfuse3 can give: names and bytes in memory, no network (bench/noopfs.py)."""

    second = False

    def mount(self, m):
        self.popen([sys.executable, HERE / "noopfs.py", m])

    def remount(self):
        """It has only its memory: nothing can be cold, the process stays."""

    def note(self):
        return (
            "an in-memory pyfuse3 filesystem with CloudVerge's scheduling shim and cache timeouts, no network"
        )
