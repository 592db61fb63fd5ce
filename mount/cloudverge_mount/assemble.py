"""The mount process put together: who we are, our session, names and bytes, the kernel; and taken apart again.

The order of the start: sign in, take the cache folder, open the session, recover what the folder holds, mount.
The order of the end, however it comes about (umount, SIGTERM, cvumount): no requests any more, a short time to
ship what is pending, then everything is closed. What was not shipped stays in the journal for the next mount.
"""

import os
import signal
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
import trio

from cloudverge_mount import memory
from cloudverge_mount.admittance import locate, make_identity, record_of
from cloudverge_mount.authclient import AuthClient, Ticket
from cloudverge_mount.bindings import choose, heeds_acls, make_mount
from cloudverge_mount.cachefolder import CacheFolder, Home, default_cache_folder
from cloudverge_mount.config import MountConfig
from cloudverge_mount.content import Content
from cloudverge_mount.control import ControlServer, ask
from cloudverge_mount.eviction import Eviction
from cloudverge_mount.identity import TicketKeeper
from cloudverge_mount.kernelcache import KernelCache
from cloudverge_mount.kernelmount import KernelMount, fuse_options
from cloudverge_mount.link import Link
from cloudverge_mount.metaclient import MetaClient
from cloudverge_mount.registry import MountRecord, all_mounts, registered, runtime_folder
from cloudverge_mount.serverlist import ServerList
from cloudverge_mount.session import START_WAIT_S, Session
from cloudverge_mount.sink import Sink
from cloudverge_mount.standing import describe
from cloudverge_mount.tlsfaults import Untrusted
from cloudverge_mount.vfs import OwnerPolicy, Vfs, open_vfs
from cloudverge_protocol.errors import CloudVergeError, Code, Denied, Refused, Unavailable
from cloudverge_protocol.ids import PROTOCOL_VERSION, SpaceId
from cloudverge_protocol.messages import Hello, SessionOpen

FOLDER_WAIT_S: Final = 15.0  # for a mount that is just ending
RETRY_S: Final = 0.25
DRAIN_ON_SIGNAL_S: Final = 20.0
DRAIN_AFTER_UMOUNT_S: Final = 5.0
CLOSE_WAIT_S: Final = 5.0

T = TypeVar("T")
_log = structlog.get_logger()


def software() -> str:
    """What we call ourselves in HELLO."""
    try:
        return f"cvmount/{version('cloudverge')}"
    except PackageNotFoundError:
        return "cvmount"


async def patiently(action: Callable[[], Awaitable[T]], wait_s: float = START_WAIT_S) -> T:
    """Do ``action``, again and again while servers are starting."""
    give_up_at = trio.current_time() + wait_s
    while True:
        try:
            return await action()
        except Untrusted:
            raise
        except Unavailable:
            if trio.current_time() > give_up_at:
                raise
        await trio.sleep(RETRY_S)


async def take_folder(path: Path) -> CacheFolder:
    """The cache folder, for us alone; waits a while for a mount that is just ending."""
    folder = CacheFolder(path)
    give_up_at = trio.current_time() + FOLDER_WAIT_S
    while not folder.lock():
        holder = next((each for each in all_mounts() if each.cache_dir == str(path)), None)
        ending = holder is None or await trio.to_thread.run_sync(_is_ending, holder)
        if not ending or trio.current_time() > give_up_at:
            where = f" at {holder.mountpoint}" if holder else ""
            raise Denied(Code.SPACE_IN_USE, f"the cache folder {path} is in use by another mount{where}")
        await trio.sleep(RETRY_S)
    return folder


def _is_ending(holder: MountRecord) -> bool:
    """Whether a mount is about to go; one that is unmounted, but held by another mount namespace, is told to."""
    try:
        return any(answer.get("done") for answer in ask(Path(holder.socket), "end"))
    except Refused:
        return False
    except CloudVergeError:
        return True


class MountProcess:
    """One mount from start to end: ``await MountProcess(...).run()``.

    ``log_to`` is called with the cache folder as soon as it is ours, ``mounted`` when requests are answered.
    """

    def __init__(
        self, config: MountConfig, *, log_to: Callable[[Path], None], mounted: Callable[[], None]
    ) -> None:
        self._config = config
        self._log_to = log_to
        self._mounted = mounted
        self._endpoints = locate(config)
        self._space_name = config.space
        self._servers = ServerList(self._endpoints.tls())
        self._failures: list[str] = []
        self._fuse: dict[str, Any] = {}  # for people: which binding serves, what this kernel lacks
        self._stopping = False
        self._eviction = Eviction()
        self._identity: TicketKeeper
        self._ticket: Ticket  # the last one: it also tells where the metaserver is
        self._folder: CacheFolder
        self._session: Session
        self._content: Content
        self._vfs: Vfs
        self._kernel: KernelMount

    async def run(self) -> None:
        """Returns when the mount has ended; raises CloudVergeError when it could not begin."""
        memory.tune_allocator()
        async with AuthClient(self._endpoints.auth_url, self._endpoints.tls()) as auth:
            cluster = self._endpoints.cluster or (await patiently(auth.keys)).cluster
            self._identity = make_identity(self._config, cluster, auth)
            ticket = await patiently(self._identity.ticket)
            self._ticket = ticket
            self._endpoints = locate(self._config, ticket)
            space = ticket.space
            self._space_name = await self._identity.space_name()
            home = Home(cluster, space, self._identity.user, ticket.grant or None)
            self._folder = await take_folder(
                self._config.cache_folder or default_cache_folder(home, owned=ticket.role == "owner")
            )
            self._folder.belong_to(home)
            self._log_to(self._folder.path)
            async with trio.open_nursery() as nursery:
                await self._open(nursery, SpaceId(space))
                shipped = await self._work()
                await self._close(shipped)
                nursery.cancel_scope.cancel()

    # --- the session and what stands on it ---------------------------------------------------------------

    async def _hello(self) -> Hello:
        ticket = await self._identity.ticket()
        self._ticket = ticket
        return Hello(PROTOCOL_VERSION, ticket.ticket, self._identity.cluster, "", software())

    def _distrusted(self) -> None:
        self._identity.renew()
        self._session.doubt()

    async def _is_entitled(self) -> None:
        """Ask auth whether we still are; raises what it refuses us with."""
        self._identity.renew()
        await self._identity.ticket()

    def _address(self) -> tuple[str, int]:
        try:
            self._endpoints = locate(self._config, self._ticket)
        except CloudVergeError as error:
            _log.info("the cluster's endpoints cannot be read again", reason=error.message)
        return self._endpoints.metaserver

    async def _open(self, nursery: trio.Nursery, space: SpaceId) -> None:
        tls, cache = self._endpoints.tls(), self._folder.path
        link = Link(self._address, self._hello, nursery, tls=tls, distrusted=self._distrusted)
        meta = MetaClient(link)
        mountpoint = str(self._config.mountpoint)
        request = SessionOpen(space, self._folder.cache_id(), socket.gethostname(), mountpoint)
        session = self._session = Session(meta, request, entitled=self._is_entitled)
        await session.open()
        nursery.start_soon(self._keep, "session", session.run)

        def make_content(sink: Sink) -> Content:
            self._content = Content(meta, session, self._identity.cluster, cache, sink, tls=tls)
            return self._content

        owners = OwnerPolicy(self._config.options.preserve_owner, self._config.uid, self._config.gid)
        self._vfs = await open_vfs(cache, session, meta, make_content, owners)
        session.on_reopened(self._content.reopened)

    async def _close(self, shipped: bool) -> None:
        with trio.move_on_after(CLOSE_WAIT_S) as scope:
            scope.shield = True
            if self._eviction.reason:
                self._folder.unlock()
                return
            await self._vfs.aclose()
            await self._content.aclose()
            if shipped:
                try:
                    await self._session.close()
                except CloudVergeError as error:
                    _log.info("the session could not be closed", reason=error.message)
        self._folder.unlock()

    # --- serving -----------------------------------------------------------------------------------------

    async def _work(self) -> bool:
        """Mount, serve until the mount ends, ship; whether all could be shipped."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._live)
            socket_path = runtime_folder() / f"{os.getpid()}.sock"
            control = ControlServer(socket_path, self._status, self._progress, self._sync, self._end)
            await nursery.start(control.run)
            await self._serve(nursery, socket_path)
            shipped = await self._ship(DRAIN_AFTER_UMOUNT_S)
            nursery.cancel_scope.cancel()
        return shipped

    async def _live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work of names and bytes."""
        with self._eviction.life:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._keep, "content", self._content.run)
                await nursery.start(self._keep, "vfs", self._vfs.run)
                task_status.started()
        self._eviction.life_ended.set()

    async def _keep(
        self,
        name: str,
        run: Callable[..., Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run background work whose failure must not end the mount: it is logged and shown instead."""
        try:
            await run(task_status=task_status)
        except Exception as error:
            _log.critical("background work failed", work=name, exc_info=error)
            self._failures.append(f"{name} failed ({error!r}): unmount and mount again")

    async def _serve(self, nursery: trio.Nursery, socket_path: Path) -> None:
        chosen = self._config.options
        options = fuse_options(chosen, self._space_name, os.getuid() or os.geteuid())
        kind = choose(chosen.values.get("fuse", ""))
        self._session.on_revoked(self._eviction.lost)
        acls = heeds_acls(kind, chosen, "default_permissions" in options)
        kernel = self._kernel = make_mount(kind, self._vfs, self._config.mountpoint, options, acls=acls)
        kernel.attach()
        self._vfs.acl = kernel.has_acls
        self._fuse = {"binding": kind, "missing": kernel.missing}
        cache_of_kernel = KernelCache(kernel)
        self._vfs.invalidate = cache_of_kernel.drop
        try:
            where = (self._folder.path, socket_path)
            with registered(
                record_of(self._config, self._identity.user, self._ticket, self._space_name, *where)
            ):
                nursery.start_soon(self._heed_signals)
                nursery.start_soon(cache_of_kernel.run)
                nursery.start_soon(
                    self._eviction.run,
                    self._folder.path,
                    kernel.bar,
                    self._vfs,
                    self._content,
                    cache_of_kernel.drop,
                )
                nursery.start_soon(memory.trim_now_and_then)
                memory.settle()
                self._mounted()
                await kernel.serve()
        finally:
            self._vfs.invalidate = None
            cache_of_kernel.end()
            kernel.detach()

    async def _status(self) -> dict[str, Any]:
        try:
            ticket = (await self._identity.ticket()).ticket
        except CloudVergeError:
            ticket = ""
        servers = await self._servers.get(self._endpoints.metaserver_url, ticket)
        return self._progress() | {"servers": servers}

    def _progress(self) -> dict[str, Any]:
        status = describe(self._config, self._session, self._vfs, self._content)
        status["space"] = self._space_name
        status["right_ended"] = self._eviction.reason
        status["fuse"] = self._fuse
        status["degraded"] += [*self._failures, *([self._eviction.reason] if self._eviction.reason else [])]
        return status

    async def _sync(self) -> None:
        await self._eviction.unless_lost(self._vfs.sync)

    # --- ending ------------------------------------------------------------------------------------------

    async def _heed_signals(self) -> None:
        """The first SIGTERM or SIGINT ends the mount in order, with time to ship; a second one, at once."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                async for _ in signals:
                    if self._stopping:
                        await self._kernel.unmount()
                    else:
                        self._stopping = True
                        nursery.start_soon(self._stop)

    def _end(self) -> None:
        self._kernel.end_if_unmounted()

    async def _stop(self) -> None:
        await self._ship(DRAIN_ON_SIGNAL_S)
        await self._kernel.unmount()

    async def _ship(self, wait_s: float) -> bool:
        """Try to ship all that is pending; whether it worked."""
        with trio.move_on_after(wait_s):
            try:
                await self._sync()
                return True
            except CloudVergeError as error:
                _log.warning("not all could be shipped; the next mount will", reason=error.message)
        return False
