"""Mount options (``-o a,b=c``): which are ours, which are the kernel's, which nobody knows. Pure.

Ours are taken out; ``default_permissions`` is not for users to choose (see ``kernelmount.fuse_options``). What
nobody knows is refused by name, except ``x-...`` and the words that only fstab's readers mean something by.
"""

from typing import Final, NamedTuple

from cloudverge_protocol.errors import Code, Refused

AUTO_UNMOUNT: Final = "auto_unmount"
KERNEL_WORDS: Final = frozenset(
    (
        *(
            "allow_other",
            "allow_root",
            AUTO_UNMOUNT,
            "ro",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "exec",
            "noexec",
        ),
        *("atime", "noatime", "sync", "async", "dirsync", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime"),
    )
)
KERNEL_VALUES: Final = frozenset(("subtype", "fsname", "context"))
IGNORED: Final = frozenset(
    (*("rw", "defaults", "auto", "noauto", "user", "users", "nouser", "group", "owner", "nofail", "_netdev"),)
)
OWN_WORDS: Final = frozenset(("preserve_owner", "nonempty", "acl"))
OWN_VALUES: Final = frozenset(
    (
        *("uid", "gid", "cluster", "cache-dir", "space", "grant"),
        *("server", "metaserver", "ca", "login", "token-file", "fuse"),
    )
)


class MountOptions(NamedTuple):
    """Options, sorted out. ``values`` holds those of ours that have a value."""

    kernel: tuple[str, ...] = ()
    preserve_owner: bool = False
    nonempty: bool = False
    acl: bool = False
    values: dict[str, str] = {}  # noqa: RUF012  never changed

    @property
    def read_only(self) -> bool:
        """Whether the mount may change nothing."""
        return "ro" in self.kernel

    @property
    def fsname(self) -> str:
        """The source that mount(8) shows, if one was asked for."""
        return next((word.partition("=")[2] for word in self.kernel if word.startswith("fsname=")), "")


def parse_options(texts: list[str]) -> MountOptions:
    """Sort ``-o`` arguments out; raises Refused for one that nobody knows."""
    kernel: dict[str, None] = {}
    values: dict[str, str] = {}
    own: set[str] = set()
    for word in (word for text in texts for word in text.split(",") if word):
        name, separator, value = word.partition("=")
        if name in OWN_WORDS and not separator:
            own.add(name)
        elif name in OWN_VALUES and separator:
            values[name] = value
        elif (name in KERNEL_WORDS and not separator) or (name in KERNEL_VALUES and separator):
            kernel[word] = None
        elif name not in IGNORED and not name.startswith("x-"):
            raise Refused(Code.INVALID, f"{word!r} is no mount option")
    return MountOptions(tuple(kernel), "preserve_owner" in own, "nonempty" in own, "acl" in own, values)
