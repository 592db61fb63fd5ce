"""A file system under test: how it is started, remounted and stopped, with all its processes in one cgroup."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NET, ADDR = "peerbench", "10.77.0.1"


def out(cmd):
    r = subprocess.run(
        cmd, shell=isinstance(cmd, str), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return r.stdout.strip()


def deb_version(pkg):
    return out(["dpkg-query", "-W", "-f=${Version}", pkg])


def wait(what, test, seconds=60):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            sys.exit(f"{what}: not there after {seconds} s")
        time.sleep(0.1)


class Peer:
    packages: tuple[str, ...] = ()
    netns, second, barrier = False, True, None

    def __init__(self, name):
        self.name, self.root = name, Path(f"/dev/shm/peer-{name}")
        self.mounts = [Path(f"/tmp/mnt-{name}"), Path(f"/tmp/mnt-{name}-2")][: 2 if self.second else 1]
        v1, v2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup/unified")
        self.cgroup = (v1 if v1.is_dir() else v2 if v2.is_dir() else Path("/sys/fs/cgroup")) / f"peer-{name}"

    # --- processes ----------------------------------------------------------------------------
    def popen(self, cmd, **kw):
        if self.netns:
            cmd = ["nsenter", f"--net=/run/netns/{NET}", *cmd]
        log = open(self.root / "log", "ab")
        join = lambda: (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        return subprocess.Popen(
            [str(c) for c in cmd],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=join,
            **kw,
        )

    def call(self, *cmd, check=True):
        rc = self.popen(cmd).wait(timeout=180)
        if check and rc:
            sys.exit(
                f"{self.name}: {cmd[0]} exit {rc}; see {self.root}/log:\n{out(['tail', '-5', self.root / 'log'])}"
            )

    def pids(self):
        f = self.cgroup / "cgroup.procs"
        return [int(p) for p in f.read_text().split()] if f.exists() else []

    # --- life ------------------------------------------------------------------------------------
    def install(self):
        missing = [p for p in self.packages if not deb_version(p) or "no packages found" in deb_version(p)]
        if missing:  # services must not start by themselves
            subprocess.run(
                ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing],
                check=True,
                env=dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1"),
                stdout=subprocess.DEVNULL,
            )

    def start(self):
        self.install()
        self.stop()
        self.root.mkdir(parents=True)
        self.cgroup.mkdir(exist_ok=True)
        (self.root / "data").mkdir()
        if self.netns and not Path(f"/run/netns/{NET}").exists():
            for c in (
                f"ip netns add {NET}",
                f"ip -n {NET} link set lo up",
                f"ip -n {NET} addr add {ADDR}/32 dev lo",
            ):
                subprocess.run(c, shell=True, check=True)
        self.servers()
        for m in self.mounts:
            m.mkdir(exist_ok=True)
            self.mount(m)
            wait(f"mount of {self.name}", lambda: os.path.ismount(m))
        self.ready()

    def umount(self, m):
        for _ in range(100):
            if (
                not os.path.ismount(m)
                or subprocess.run(["umount", m], stderr=subprocess.DEVNULL).returncode == 0
            ):
                return
            time.sleep(0.1)
        sys.exit(f"{m} stays busy")

    def remount(self):
        before = set(self.pids())
        self.umount(self.mounts[0])
        wait("end of the old client", lambda: len(set(self.pids())) < len(before), 30)
        self.forget()
        self.mount(self.mounts[0])
        wait(f"mount of {self.name}", lambda: os.path.ismount(self.mounts[0]))

    def stop(self):
        for m in self.mounts:
            if os.path.ismount(m):
                subprocess.run(["umount", "-l", m])
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for p in self.pids():
                try:
                    os.kill(p, sig)
                except ProcessLookupError:
                    pass
            end = time.monotonic() + 8
            while self.pids() and time.monotonic() < end:
                time.sleep(0.1)
        if self.cgroup.is_dir() and not self.pids():
            self.cgroup.rmdir()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- what a peer fills in ------------------------------------------------------------------
    def servers(self):
        pass

    def mount(self, m):
        pass

    def ready(self):
        pass

    def forget(self):
        pass

    def note(self):
        return ""
