"""The workloads: each takes the running ``Bench`` and the repeat's number and returns {metric: value}."""

import json
import multiprocessing
import os
import shutil
import statistics
import time
from pathlib import Path

from measure import PATIENCE, GiB, MiB, percentile, read_file, sh, write_file

SCALES = {
    "full": dict(
        seq=512 * MiB, rnd=256 * MiB, fio_s=6, fsyncs=200, sub="", md=5000, ren=2000, par=64 * MiB, vis=100
    ),
    "small": dict(
        seq=64 * MiB, rnd=32 * MiB, fio_s=3, fsyncs=50, sub="django/db", md=500, ren=200, par=8 * MiB, vis=20
    ),
}
# group: {metric: (unit, bigger is better)}
GROUP_METRICS = {
    "seq": {
        "seq_write": ("MB/s", True),
        "seq_read_cold": ("MB/s", True),
        "seq_read_warm": ("MB/s", True),
        "cpu_write": ("CPU s/GiB", False),
        "cpu_read": ("CPU s/GiB", False),
    },
    "rand": {
        "rand_read_4k_qd1": ("IOPS", True),
        "rand_read_4k_j16": ("IOPS", True),
        "rand_write_4k": ("IOPS", True),
    },
    "fsync": {"fsync_4k_p50": ("ms", False), "fsync_4k_p99": ("ms", False)},
    "tree": {
        "untar": ("files/s", True),
        "untar_durable": ("files/s", True),
        "cpu_untar": ("CPU ms/file", False),
        "cpu_untar_durable": ("CPU ms/file", False),
        "find_stat_cold": ("files/s", True),
        "find_stat_warm": ("files/s", True),
        "read_tree_cold": ("files/s", True),
        "read_tree_warm": ("files/s", True),
        "rm_rf": ("files/s", True),
    },
    "rsync": {"rsync_a": ("s", False), "rsync_a_durable": ("s", False), "rsync_a_noop": ("s", False)},
    "git": {"git_add_commit": ("s", False), "git_durable": ("s", False), "git_status_warm": ("s", False)},
    "mdtest": {"create": ("ops/s", True), "stat": ("ops/s", True), "unlink": ("ops/s", True)},
    "rename": {"mkdir": ("ops/s", True), "rename": ("ops/s", True)},
    "parallel": {"parallel_write": ("MB/s", True), "parallel_read": ("MB/s", True)},
    "two_client": {
        "visible_new_p50": ("ms", False),
        "visible_new_p99": ("ms", False),
        "visible_update_p50": ("ms", False),
        "visible_update_p99": ("ms", False),
        "new_not_at_once": ("%", False),
        "stale_reads": ("%", False),
    },
}


def w_seq(b, r):
    f, size = b.dir / f"seq-{r}", b.p["seq"]
    data = b.data(size, r)
    with b.clock() as w:
        write_file(f, data)
    b.cold()
    with b.clock() as c:
        read_file(f)
    with b.clock() as h:
        read_file(f)
    if r == 0:
        b.cold()
        read_file(f, data)  # not timed: is it what we wrote?
    f.unlink()
    per = lambda m: m.cpu / (size / GiB) if m.cpu is not None else None
    return dict(
        seq_write=size / 1e6 / w.s,
        seq_read_cold=size / 1e6 / c.s,
        seq_read_warm=size / 1e6 / h.s,
        cpu_write=per(w),
        cpu_read=per(c),
    )


def w_rand(b, r):
    f, size = b.dir / "rand", b.p["rnd"]
    if r == 0:
        write_file(f, b.data(size, 77))

    def fio(rw, jobs, *more):
        b.cold()
        part = size // jobs  # every job has a part of its own: no re-reads
        out = json.loads(
            sh(
                [
                    "fio",
                    "--name=j",
                    f"--filename={f}",
                    f"--rw={rw}",
                    "--bs=4k",
                    "--ioengine=psync",
                    "--thread",
                    "--allow_file_create=0",
                    f"--randseed={r + 1}",
                    f"--numjobs={jobs}",
                    f"--size={part}",
                    f"--offset_increment={part}",
                    f"--runtime={b.p['fio_s']}",
                    "--group_reporting",
                    "--output-format=json",
                    *more,
                ]
            )
        )
        x = out["jobs"][0]["write" if "write" in rw else "read"]
        return x["total_ios"] / (x["runtime"] / 1000)  # the end fsync is inside the run time

    return dict(
        rand_read_4k_qd1=fio("randread", 1),
        rand_read_4k_j16=fio("randread", 16),
        rand_write_4k=fio("randwrite", 1, "--end_fsync=1"),
    )


def w_fsync(b, r):
    fd, lat, block = os.open(b.dir / f"fsync-{r}", os.O_CREAT | os.O_WRONLY), [], bytes(b.data(4096, r))
    try:
        for _ in range(b.p["fsyncs"]):
            t = time.perf_counter()
            os.write(fd, block)
            os.fsync(fd)
            lat.append((time.perf_counter() - t) * 1000)
    finally:
        os.close(fd)
    return dict(fsync_4k_p50=percentile(lat, 50), fsync_4k_p99=percentile(lat, 99))


def w_tree(b, r):
    d, m, durable = b.untar(f"tree-{r}")
    find = f"find {d} -printf '%s %T@ %m %p\\n' > /dev/null"
    read = f"set -o pipefail; tar cf - -C {d} . | cat > /dev/null"  # tar would skip reading for /dev/null
    n, bash = b.nfiles, lambda line: ["bash", "-c", line]
    out = b.out
    out.update(untar=n / m.s, untar_durable=n / durable.s)
    if m.cpu is not None:
        out.update(cpu_untar=m.cpu * 1000 / n, cpu_untar_durable=durable.cpu * 1000 / n)

    def warm(line):  # up to 3 times; once is enough if it is slow
        times = []
        while len(times) < 3 and sum(times) < 5:
            times.append(b.timed(bash(line)).s)
        return n / statistics.median(times)

    b.cold()
    out["find_stat_cold"] = n / b.timed(bash(find)).s
    out["find_stat_warm"] = warm(find)
    if r == 0 and (got := int(sh(f"find {d} -type f | wc -l"))) != n:
        raise RuntimeError(f"{got} files in the tree after remount, {n} expected")
    b.cold()
    out["read_tree_cold"] = n / b.timed(bash(read)).s
    out["read_tree_warm"] = warm(read)
    out["rm_rf"] = n / b.timed(["rm", "-rf", str(d)]).s
    return out


def w_rsync(b, r):
    d = b.dir / f"rsync-{r}"
    d.mkdir()
    cmd = ["rsync", "-a", f"{b.tree}/", f"{d}/"]
    with b.clock() as durable:
        b.out["rsync_a"] = b.timed(cmd).s
        b.barrier()
    b.out["rsync_a_durable"] = durable.s
    b.out["rsync_a_noop"] = b.timed(cmd).s
    if r:
        shutil.rmtree(d)  # the first copy stays for the git group
    return b.out


def w_git(b, r):
    d = b.dir / "rsync-0"
    if not d.exists():
        d.mkdir()
        sh(["rsync", "-a", f"{b.tree}/", f"{d}/"])
    env = dict(
        os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null", GIT_OPTIONAL_LOCKS="1"
    )
    git = f"git -c safe.directory=* -c gc.auto=0 -c user.name=b -c user.email=b@example.org -C {d} "
    if (d / ".git").exists():
        shutil.rmtree(d / ".git")
    with b.clock() as durable:
        with b.clock() as m:
            sh(f"{git} init -q && {git} add -A && {git} commit -q -m x", env=env)
        b.barrier()
    b.out.update(git_add_commit=m.s, git_durable=durable.s)
    sh(f"{git} status", env=env)
    times = []
    for _ in range(3):
        with b.clock() as s:
            if sh(f"{git} status --porcelain", env=env):
                raise RuntimeError("git status is not clean after the commit")
        times.append(s.s)
    return dict(git_status_warm=statistics.median(times))


def w_mdtest(b, r):
    d, n = b.dir / f"md-{r}", b.p["md"]
    d.mkdir()
    names = [str(d / f"file.{i:06d}") for i in range(n)]
    with b.clock() as c:
        for p in names:
            os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    with b.clock() as s:
        for p in names:
            os.stat(p)
    with b.clock() as u:
        for p in names:
            os.unlink(p)
    d.rmdir()
    return dict(create=n / c.s, stat=n / s.s, unlink=n / u.s)


def w_rename(b, r):
    d, n = b.dir / f"ren-{r}", b.p["ren"]
    with b.clock() as m:  # 2000 folders, two levels, like mkdir -p
        for i in range(n):
            os.makedirs(d / f"a{i // 100}" / f"b{i}")
    old, new = d / "old", d / "new"
    old.mkdir(), new.mkdir()
    for i in range(n):
        (old / f"{i}").touch()
    with b.clock() as c:
        for i in range(n):
            os.rename(old / f"{i}", new / f"{i}")
    shutil.rmtree(d)
    return dict(mkdir=n / m.s, rename=n / c.s)


def par_job(args):
    path, data, what = args
    if what == "write":
        write_file(path, data())
    elif read_file(path) != len(data()):
        raise RuntimeError("short read")


def w_parallel(b, r):
    ctx, size, out = multiprocessing.get_context("fork"), b.p["par"], {}
    for what in ("write", "read"):
        procs = [
            ctx.Process(
                target=par_job, args=((str(b.dir / f"par-{i}"), lambda i=i: b.data(size, r * 8 + i), what),)
            )
            for i in range(4)
        ]
        with b.clock() as m:
            [p.start() for p in procs]
            [p.join() for p in procs]
        if any(p.exitcode for p in procs):
            raise RuntimeError("a parallel worker failed")
        out[f"parallel_{what}"] = 4 * size / 1e6 / m.s
    for i in range(4):
        (b.dir / f"par-{i}").unlink()
    return out


def w_two_client(b, r):
    """A writes and closes; how long until B, polling every 0.2 ms, reads exactly that?"""
    n = b.p["vis"]
    other, patience = Path(b.a.second) / b.dir.relative_to(b.mount) / f"two-{r}", PATIENCE
    (b.dir / f"two-{r}").mkdir()

    def until(path, want):
        """(ms until path reads as want, whether the first look had it, whether wrong content was read)"""
        t0, first, wrong = time.perf_counter(), None, False
        while True:
            try:
                got = path.read_bytes()
            except OSError:
                got = None
            t = time.perf_counter() - t0
            first = got == want if first is None else first
            wrong = wrong or (got is not None and got != want)
            if got == want or t > patience:
                return t * 1000, first, wrong
            time.sleep(0.0002)

    while not other.is_dir():
        time.sleep(0.1)  # TooLong ends this if it never appears
    new, upd, stop = [], [], time.monotonic() + b.a.budget / 2
    for i in range(n):
        a, o = b.dir / f"two-{r}" / f"f{i}", other / f"f{i}"
        o.exists()  # B has looked for it: a negative entry may be cached
        v1, v2 = (f"{r} {i} {v} ".encode() * 600 for v in (1, 2))
        write_file(a, v1, fsync=False)
        new.append(until(o, v1))
        write_file(a, v2, fsync=False)  # B has just read v1: same size, other content
        upd.append(until(o, v2))
        if time.monotonic() > stop:
            break
    ms = lambda xs: [x[0] for x in xs]
    return dict(
        visible_new_p50=percentile(ms(new), 50),
        visible_new_p99=percentile(ms(new), 99),
        visible_update_p50=percentile(ms(upd), 50),
        visible_update_p99=percentile(ms(upd), 99),
        new_not_at_once=100 * sum(not x[1] for x in new) / len(new),
        stale_reads=100 * sum(x[2] or x[0] > patience * 1000 for x in upd) / len(upd),
    )


GROUPS = dict(
    seq=w_seq,
    rand=w_rand,
    fsync=w_fsync,
    tree=w_tree,
    rsync=w_rsync,
    git=w_git,
    mdtest=w_mdtest,
    rename=w_rename,
    parallel=w_parallel,
    two_client=w_two_client,
)
