"""The systems that are compared: peers, floors and limits, each in its usual configuration."""

import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from measure import DATA
from ours import CloudVerge, Noop
from peer import ADDR, Peer, deb_version, out, wait


class MooseFS(Peer):
    netns = True
    packages = ("moosefs-master", "moosefs-chunkserver", "moosefs-client", "moosefs-cli")

    def servers(self):
        r, common = self.root, "WORKING_USER = root\nWORKING_GROUP = root\nLOCK_MEMORY = 0\nNICE_LEVEL = 0\n"
        (r / "master").mkdir()
        shutil.copy("/var/lib/mfs/metadata.mfs.empty", r / "master/metadata.mfs")
        (r / "exports").write_text("* / rw,alldirs,admin,maproot=0:0\n* . rw\n")
        (r / "topology").write_text("")
        (r / "master.cfg").write_text(
            common
            + f"DATA_PATH = {r}/master\nEXPORTS_FILENAME = {r}/exports\nTOPOLOGY_FILENAME = {r}/topology\n"
            + "".join(f"{p}_LISTEN_HOST = {ADDR}\n" for p in ("MATOML", "MATOCS", "MATOCL"))
        )
        self.call("mfsmaster", "-c", r / "master.cfg", "start")
        for i in range(3):
            (r / f"data/{i}").mkdir()
            (r / f"cs{i}").mkdir()
            (r / f"hdd{i}").write_text(f"{r}/data/{i}\n")
            (r / f"cs{i}.cfg").write_text(
                common + f"DATA_PATH = {r}/cs{i}\nHDD_CONF_FILENAME = {r}/hdd{i}\nMASTER_HOST = {ADDR}\n"
                f"CSSERV_LISTEN_HOST = {ADDR}\nCSSERV_LISTEN_PORT = {9422 + 10 * i}\nBIND_HOST = {ADDR}\n"
            )
            self.call("mfschunkserver", "-c", r / f"cs{i}.cfg", "start")

    def mount(self, m):
        self.call("mfsmount", m, "-H", ADDR)

    def ready(self):
        goal = self.name[-1]
        self.call("mfssetgoal", "-r", goal, self.mounts[0])
        time.sleep(5)  # chunkservers register
        for _ in range(60):  # until a write succeeds
            try:
                (self.mounts[0] / "probe").write_bytes(b"x" * 100000)
                return
            except OSError:
                time.sleep(1)

    def note(self):
        return (
            f"MooseFS {deb_version('moosefs-master')} (Debian): master + 3 chunkservers, goal {self.name[-1]}, defaults otherwise "
            "(chunkservers do not fsync: HDD_FSYNC_BEFORE_CLOSE 0); mfsmount, defaults"
        )


class Sshfs(Peer):
    packages = ("openssh-server", "sshfs")
    port = 2822

    def servers(self):
        r = self.root
        Path("/run/sshd").mkdir(exist_ok=True)
        for k in ("host", "user"):
            out(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(r / k)])
        shutil.copy(r / "user.pub", r / "authorized")
        (r / "sshd.cfg").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {r}/host\nAuthorizedKeysFile {r}/authorized\nStrictModes no\n"
            f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nPidFile {r}/sshd.pid\nSubsystem sftp internal-sftp\n"
        )
        self.call("/usr/sbin/sshd", "-f", r / "sshd.cfg")

    def mount(self, m):
        r = self.root
        self.call(
            "sshfs",
            f"root@127.0.0.1:{r}/data",
            m,
            "-p",
            str(self.port),
            "-o",
            f"IdentityFile={r}/user,StrictHostKeyChecking=no,UserKnownHostsFile={r}/known",
        )

    def note(self):
        return (
            f"sshfs {deb_version('sshfs')} on OpenSSH {deb_version('openssh-server')} (Debian): one copy, encrypted, internal-sftp; "
            "sshfs defaults (cache 20 s, one connection)"
        )


class Rclone(Peer):
    packages = ("rclone", "fuse3")

    def servers(self):
        self.popen(
            [
                "rclone",
                "serve",
                "sftp",
                self.root / "data",
                "--addr",
                "127.0.0.1:2823",
                "--user",
                "u",
                "--pass",
                "p",
            ]
        )
        time.sleep(1)

    def mount(self, m):
        self.popen(
            [
                "rclone",
                "mount",
                f":sftp,host=127.0.0.1,port=2823,user=u,pass={out('rclone obscure p')}:",
                m,
                "--vfs-cache-mode",
                "full",
                "--cache-dir",
                self.root / f"cache-{m.name}",
                *self.more(),
            ]
        )

    def more(self):
        return ["--vfs-write-back", "0s", "--dir-cache-time", "1s"] if self.name.endswith("-sync") else []

    def uploads(self):
        return out(
            f"grep -rl '\"Dirty\": *true' {self.root}/cache-{self.mounts[0].name}/vfsMeta 2>/dev/null | head -1"
        )

    def umount(self, m):
        wait("upload of what the client has cached", lambda: not self.uploads(), 110)
        super().umount(m)

    def forget(self):
        shutil.rmtree(self.root / f"cache-{self.mounts[0].name}")

    def note(self):
        more = (
            " ".join(self.more())
            or "write-back 5 s, dir cache 5 min (defaults): data are NOT on the server at fsync/close"
        )
        return f"rclone {deb_version('rclone')} (Debian): rclone serve sftp, one copy, encrypted; rclone mount --vfs-cache-mode full, cache on tmpfs; {more}"


class Pyfuse3(Peer):
    """pyfuse3's own example, run from its source package; "cached" lets the kernel cache entries and attributes."""

    second = False
    venv = Path("/tmp/peer-venv")
    src = DATA / "pyfuse3-3.5.0"
    cached = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import passthroughfs as p
plain = p.Operations._getattr
def getattr_cached(self, *a, **k):
    e = plain(self, *a, **k)
    e.entry_timeout = e.attr_timeout = 60
    return e
p.Operations._getattr = getattr_cached
p.main()
"""

    def install(self):
        if not (self.venv / "bin/python").exists():
            subprocess.run([sys.executable, "-m", "venv", self.venv], check=True)
        subprocess.run([self.venv / "bin/pip", "install", "-q", "pyfuse3==3.5.0"], check=True)
        if not self.src.exists():
            DATA.mkdir(exist_ok=True)
            subprocess.run(
                [
                    "pip",
                    "download",
                    "-q",
                    "--no-binary",
                    "pyfuse3",
                    "--no-deps",
                    "-d",
                    DATA,
                    "pyfuse3==3.5.0",
                ],
                check=True,
            )
            with tarfile.open(f"{self.src}.tar.gz") as t:
                t.extractall(DATA)

    def mount(self, m):
        py, ex = self.venv / "bin/python", self.src / "examples"
        (self.root / "cached.py").write_text(self.cached)
        self.popen(
            [py, self.root / "cached.py", ex, "--enable-writeback-cache", self.root / "data", m]
            if self.name.endswith("-cached")
            else [py, ex / "passthroughfs.py", self.root / "data", m]
        )

    def note(self):
        how = (
            "entry/attribute timeouts 60 s, kernel write-back cache"
            if self.name.endswith("-cached")
            else "as it comes (timeouts 0, no write-back cache)"
        )
        return f"pyfuse3 3.5.0's example passthroughfs.py over tmpfs, no network, {how}; CPython {sys.version.split()[0]}"


class Local(Peer):
    def __init__(self, name):
        super().__init__(name)
        d = self.root / "data" if name == "limit-tmpfs" else Path("/tmp/peer-limit-ext4")
        self.mounts = [d, d]

    def start(self):
        self.stop()
        self.mounts[0].mkdir(parents=True)

    def remount(self):
        pass

    def stop(self):
        shutil.rmtree(self.mounts[0], ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def note(self):
        return (
            "a plain folder on "
            + ("tmpfs (nothing to be cold)" if self.name == "limit-tmpfs" else "the machine's ext4 disk")
            + ", no network, no FUSE"
        )


PEERS = {
    p.name: p
    for p in (
        CloudVerge("cloudverge"),
        CloudVerge("cloudverge-disk"),
        CloudVerge("cloudverge-tls"),
        CloudVerge("cloudverge-direct"),
        MooseFS("moosefs-g2"),
        MooseFS("moosefs-g3"),
        Sshfs("sshfs"),
        Rclone("rclone"),
        Rclone("rclone-sync"),
        Noop("floor-noop"),
        Pyfuse3("floor-pyfuse3"),
        Pyfuse3("floor-pyfuse3-cached"),
        Local("limit-ext4"),
        Local("limit-tmpfs"),
    )
}
