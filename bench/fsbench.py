#!/usr/bin/env python3
"""fsbench: one set of file-system workloads, to compare network file systems side by side.

  fsbench.py MOUNT [--label L] [--json OUT] [--remount-cmd CMD] [--barrier-cmd CMD] [--second MOUNT2]
                   [--cgroup DIR | --pids P,.. | --procs PATTERN,..] [--lock FILE]
                   [--only GROUP,..] [--scale small|full] [--budget SECONDS]

Python standard library only; calls tar, find, rsync, git, rm and fio.  Needs root (drop_caches).

What to know when you read the numbers
 * MB/s is 10^6 bytes/s.  files/s counts regular files only (the tree has 6798 files in 3231 folders).
 * cold = after --remount-cmd and drop_caches; warm = the same again at once, same mount.
 * Each group repeats 3 times and the median is reported.  A group that has used up --budget seconds
   does not start another repeat; the table shows the number of repeats where it is not 3.
 * Data are random and shifted by an odd offset for each repeat, so neither compression nor
   deduplication helps; the cold read is compared with what was written.
 * *_durable: the clock stops when --barrier-cmd has returned (without one: at once).
 * cpu_* is what all servers and clients of the system used (not the benchmark's own processes, and
   not kernel work done in the application's system calls) within the timed section: work that a
   system puts off until after fsync/close is not in it.
 * spin_ms in the JSON is a fixed pure-Python loop, timed before each repeat: it shows a disturbed run.
"""

import argparse
import contextlib
import fcntl
import json
import mmap
import os
import platform
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from measure import DATA, RAM, TREE, MiB, TooLong, sh, spin
from report import fmt
from workloads import GROUP_METRICS, GROUPS, SCALES


class Bench:
    def __init__(self, a):
        self.a, self.mount, self.p, self.lock = a, Path(a.mount), SCALES[a.scale], None
        self.dir = self.mount / f"fsbench-{os.getpid()}"

    # --- inputs -------------------------------------------------------------------------------
    def prepare(self):
        RAM.mkdir(parents=True, exist_ok=True)
        blob = RAM / f"random-{self.a.scale}"
        size = self.p["seq"] + MiB
        if not blob.exists() or blob.stat().st_size != size:
            with open(blob, "wb") as f:
                for _ in range(0, size, MiB):
                    f.write(os.urandom(MiB))
        with open(blob, "rb") as f:
            self._map = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        self.blob = memoryview(self._map)
        sdist = DATA / f"{TREE}.tar.gz"
        if not sdist.exists():
            DATA.mkdir(exist_ok=True)
            sh(f"cd {DATA} && pip download -q --no-binary :all: --no-deps {TREE.replace('-', '==')}")
        src = RAM / "src"
        if not (src / TREE).exists():
            src.mkdir(exist_ok=True)
            with tarfile.open(sdist) as t:
                t.extractall(src)
        self.tree = src / TREE / self.p["sub"]
        self.nfiles = sum(len(fs) for _, _, fs in os.walk(self.tree))
        self.tar = RAM / f"tree-{self.a.scale}.tar"  # not compressed: we do not measure gzip
        if not self.tar.exists():
            sh(["tar", "cf", self.tar, "-C", self.tree, "."])

    def data(self, size, shift=0):
        return self.blob[shift * 4099 : shift * 4099 + size]

    # --- clocks and caches ----------------------------------------------------------------------
    def cpu(self):
        """CPU seconds so far of the servers and clients under test, or None."""
        if self.a.cgroup:
            for name, scale in (("cpuacct.usage", 1e-9), ("cpu.stat", 1e-6)):
                f = Path(self.a.cgroup) / name
                if f.exists():
                    return int(f.read_text().split()[0 if name != "cpu.stat" else 1]) * scale
        pats = [p for p in (self.a.procs or "").split(",") if p]
        pids = {p for p in (self.a.pids or "").split(",") if p}
        if not pats and not pids:
            return None
        ticks = 0
        for d in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if d.name in pids or any(p.encode() in (d / "cmdline").read_bytes() for p in pats):
                    ticks += sum(map(int, (d / "stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def clock(self):
        m = argparse.Namespace(cpu=None)
        c0, t0 = self.cpu(), time.perf_counter()
        yield m
        m.s = time.perf_counter() - t0
        if c0 is not None:
            m.cpu = self.cpu() - c0

    def timed(self, cmd):
        with self.clock() as m:
            sh(cmd)
        return m

    def cold(self):
        sh(["sync", "-f", str(self.mount)])
        if self.a.remount_cmd:
            sh(self.a.remount_cmd, timeout=120)
        else:
            os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        os.stat(self.dir)

    def untar(self, name):
        d = self.dir / name
        d.mkdir()
        with self.clock() as durable:
            m = self.timed(f"tar xf {self.tar} -C {d} && sync -f {d}")
            self.barrier()
        return d, m, durable

    def barrier(self):
        """Wait until all that was written is where the system promises it to be (the *_durable rows)."""
        if self.a.barrier_cmd:
            sh(self.a.barrier_cmd, timeout=120)

    def take_turns(self):
        """Hold --lock while we measure, but let others in between two groups after 4 minutes."""
        if not self.a.lock or (self.lock and time.monotonic() - self.locked < 240):
            return
        if self.lock:
            self.lock.close()
            time.sleep(1)
        self.lock = open(self.a.lock, "w")  # not inherited by what we start
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.locked = time.monotonic()

    # --- running --------------------------------------------------------------------------------
    def group(self, name, func):
        """Up to 3 repeats of one group within the budget; medians of every metric."""
        samples, spins, error, t0 = {}, [], None, time.monotonic()
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TooLong("took too long")))
        try:
            for r in range(self.a.repeats):
                spins.append(spin())
                self.out = {}  # what is measured so far, also if we run out of time
                signal.alarm(self.a.limit)
                try:
                    self.out.update(func(self, r))
                finally:
                    signal.alarm(0)
                    for k, v in self.out.items():
                        if v is not None:
                            samples.setdefault(k, []).append(v)
                if time.monotonic() - t0 > self.a.budget:
                    break
        except Exception as e:  # a peer that fails one group goes on
            error = f"{type(e).__name__}: {e}"
        out = {}
        for k, vs in samples.items():
            unit, _ = GROUP_METRICS[name][k]
            out[k] = dict(
                value=statistics.median(vs), unit=unit, n=len(vs), all=[round(v, 4) for v in vs], group=name
            )
            print(f"  {k:22s} {fmt(out[k]['value']):>9s} {unit:12s} n={len(vs)}", flush=True)
        took = time.monotonic() - t0
        print(
            f"  [{name}: {took:.0f} s, spin {min(spins):.0f}-{max(spins):.0f} ms]"
            + (f"  FAILED: {error}" if error else ""),
            flush=True,
        )
        return out, dict(seconds=round(took, 1), spin_ms=spins, error=error)

    def run(self):
        self.prepare()
        self.dir.mkdir()
        print(f"== {self.a.label}: {self.mount} ({self.a.scale})", flush=True)
        report = dict(
            label=self.a.label,
            note=self.a.note,
            scale=self.a.scale,
            when=time.strftime("%Y-%m-%d %H:%M"),
            kernel=platform.release(),
            cpus=os.cpu_count(),
            results={},
            groups={},
        )
        saved = Path(self.a.json) if self.a.json else None
        if saved and self.a.only and saved.exists():  # measure some groups again: keep the others
            old = json.loads(saved.read_text())
            report.update(results=old["results"], groups=old["groups"])
        for name, func in GROUPS.items():
            if (self.a.only and name not in self.a.only.split(",")) or (
                name == "two_client" and not self.a.second
            ):
                continue
            self.take_turns()
            out, report["groups"][name] = self.group(name, func)
            report["results"].update(out)
            if saved:
                saved.write_text(json.dumps(report, indent=1) + "\n")
        if not self.a.keep:
            subprocess.run(["rm", "-rf", str(self.dir)])
        return report


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("mount", nargs="?")
    ap.add_argument("--label", default="unnamed")
    ap.add_argument("--note", default="", help="free text kept in the JSON: version and configuration")
    ap.add_argument("--json", metavar="OUT")
    ap.add_argument("--remount-cmd", help="unmounts and mounts the client afresh")
    ap.add_argument(
        "--barrier-cmd", help="returns when all is durable: stops the clock of the *_durable rows"
    )
    ap.add_argument("--second", help="a second mount of the same file system, by another client process")
    ap.add_argument("--cgroup", help="cgroup folder (v1 cpuacct or v2) that holds all servers and clients")
    ap.add_argument("--pids")
    ap.add_argument("--procs", help="command-line patterns")
    ap.add_argument("--lock", help="hold this flock while measuring")
    ap.add_argument("--only", help="comma-separated groups: " + ", ".join(GROUPS))
    ap.add_argument("--scale", choices=SCALES, default="full")
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument(
        "--budget", type=float, default=12, help="seconds after which a group starts no further repeat"
    )
    ap.add_argument("--limit", type=int, default=150, help="seconds after which one repeat is given up")
    ap.add_argument(
        "--keep", action="store_true", help="leave the files there (the caller throws the storage away)"
    )
    a = ap.parse_args()
    if not a.mount:
        ap.error("give a mount point")
    out = Bench(a).run()
    sys.exit(any(g["error"] for g in out["groups"].values()))


if __name__ == "__main__":
    main()
