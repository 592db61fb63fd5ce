#!/usr/bin/env python3
"""Start, remount and stop the peers on this machine, and run fsbench.py on them.

  peers.py list
  peers.py bench [NAME ..] [--rounds N] [--scale small|full] [--only GROUPS] [--out DIR]
  peers.py start|remount|stop NAME
  peers.py report DIR

``bench`` takes the systems in turn, one after another, in each of N rounds (so a machine that slows down slows
all), and prints medians and ranges over the rounds. All server storage, and the clients' own disk caches, lie
on tmpfs in /dev/shm/peer-NAME; the clients mount at /tmp/mnt-NAME. Everything started is put in one cgroup per
peer: it gives the CPU time of all servers and clients, and "stop" ends exactly the processes in it. MooseFS
refuses 127.0.0.1 as the address of a storage server, so it runs in a network namespace whose only interface is
loopback (with 10.77.0.1). Needs root, Debian 12, cgroup v1 cpuacct or v2; installs with apt and pip what is
not there.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from peer import HERE
from report import notes, table
from systems import PEERS, Local

DEFAULT = ["cloudverge", "moosefs-g2", "sshfs", "floor-noop"]


def fsbench_command(peer, a, result):
    m = peer.mounts
    cmd = [
        sys.executable,
        HERE / "fsbench.py",
        m[0],
        "--label",
        peer.name,
        "--scale",
        a.scale,
        "--note",
        peer.note(),
    ]
    cmd += ["--lock", a.lock, "--keep", "--repeats", "1", "--json", result]
    if not isinstance(peer, Local):
        cmd += [
            "--remount-cmd",
            f"{sys.executable} {HERE}/peers.py remount {peer.name}",
            "--cgroup",
            peer.cgroup,
        ]
    if len(m) > 1:
        cmd += ["--second", m[1]]
    if peer.barrier:
        cmd += ["--barrier-cmd", peer.barrier]
    if a.only:
        cmd += ["--only", a.only]
    return [str(c) for c in cmd]


def run_round(names, a, number):
    for name in names:
        peer = PEERS[name]
        print(f"--- round {number}: {name}", flush=True)
        try:
            peer.start()
            subprocess.run(fsbench_command(peer, a, a.out / f"{name}.r{number}.json"))
        except (SystemExit, OSError, subprocess.SubprocessError) as error:
            print(f"== {name}: SKIPPED: {error}", flush=True)
        finally:
            peer.stop()


def bench(names, a):
    a.out.mkdir(parents=True, exist_ok=True)
    for number in range(1, a.rounds + 1):
        run_round(names, a, number)
    report(a.out)


def report(folder):
    print("\n" + table(folder, subject="cloudverge", floor="floor-noop") + "\n\n" + notes(folder))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("command", choices=["list", "bench", "start", "remount", "stop", "report"])
    ap.add_argument("names", nargs="*")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--scale", default="full")
    ap.add_argument("--only")
    ap.add_argument(
        "--lock", default="/tmp/bench.lock", help="measured runs take turns on this flock; empty: no lock"
    )
    ap.add_argument("--out", type=Path, default=HERE / "results" / time.strftime("%Y-%m-%d"))
    a = ap.parse_args()
    if a.command == "list":
        print(*PEERS, sep="\n")
    elif a.command == "report":
        report(Path(a.names[0].rstrip("/")))
    elif a.command == "bench":
        bench(a.names or DEFAULT, a)
    else:
        for n in a.names:
            getattr(PEERS[n], a.command)()


if __name__ == "__main__":
    main()
