"""The other programs, as they are installed: each room's own ``main``, or a word about what is missing.

Every program is installed with any extra, but runs only with its own: without it the answer is one line that
names the ``pip install``, not a traceback.
"""

import importlib
import sys

from cloudverge_cli.exits import is_foreign, missing_extra


def _run(program: str, module: str) -> None:
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if not is_foreign(error):
            raise
        sys.exit(missing_extra(program, module, error.name))
    main()


def auth() -> None:
    """``cloudverge-auth``."""
    _run("cloudverge-auth", "cloudverge_auth.__main__")


def metaserver() -> None:
    """``cloudverge-metaserver``."""
    _run("cloudverge-metaserver", "cloudverge_metaserver.__main__")


def chunkserver() -> None:
    """``cloudverge-chunkserver``."""
    _run("cloudverge-chunkserver", "cloudverge_chunkserver.__main__")


def cvmount() -> None:
    """``cvmount``."""
    _run("cvmount", "cloudverge_mount.cvmount")


def cvumount() -> None:
    """``cvumount``."""
    _run("cvumount", "cloudverge_mount.cvumount")


def fstab() -> None:
    """``mount.fuse.cloudverge``."""
    _run("mount.fuse.cloudverge", "cloudverge_mount.fstab")
