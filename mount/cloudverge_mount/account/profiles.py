"""Profiles: one file for each server and user somebody signed in to, and which of them is the current one.

    $XDG_CONFIG_HOME/cloudverge/profiles/CLUSTER-USER.json      0600, in a folder of mode 0700
    $XDG_CONFIG_HOME/cloudverge/profiles/current                the name of one of them

A profile is ``Credentials`` without a password. Its refresh token is in the system's keyring where there is one, under
the path of the file, and otherwise in the file. A token in the file is newer than one in the keyring.
"""

from pathlib import Path
from typing import Final

import platformdirs
from msgspec.structs import replace

from cloudverge_mount.account.keyrings import Keyring
from cloudverge_mount.credentials import CredentialFile, Credentials, file_name
from cloudverge_protocol.errors import Code, Unavailable

CURRENT: Final = "current"


class ProfileFile(CredentialFile):
    """The file of one profile, and its secret in the keyring."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        super().__init__(path)
        self._keyring = keyring

    def load(self) -> Credentials | None:
        """As of a plain file; raises Unavailable when the keyring that has the secret does not answer."""
        kept = super().load()
        if kept is None or not kept.in_keyring:
            return kept
        token = self._keyring.get(str(self.path))
        if token is None:
            raise Unavailable(
                Code.UNAVAILABLE,
                f"the keyring does not give {kept.user}'s sign-in: unlock it, or cv login again",
            )
        refresh_token, _, next_token = token.partition(" ")
        return replace(kept, refresh_token=refresh_token, next_token=next_token)

    def save(self, credentials: Credentials) -> None:
        """As of a plain file, but for the secret that the keyring takes."""
        token = f"{credentials.refresh_token} {credentials.next_token}".strip()
        taken = bool(token) and self._keyring.put(str(self.path), token)
        if taken:
            credentials = replace(credentials, refresh_token="", next_token="")
        super().save(replace(credentials, in_keyring=taken))

    def remove(self) -> None:
        """Sign-in and all; the server is not told."""
        kept = super().load()
        if kept is not None and kept.in_keyring:
            self._keyring.forget(str(self.path))
        super().remove()


class Profiles:
    """All profiles of this user of the machine."""

    def __init__(self, folder: Path | None = None, keyring: Keyring | None = None) -> None:
        config = folder or platformdirs.user_config_path("cloudverge")
        self._folder = config / "profiles"
        self._old_folder = config / "credentials"
        self._keyring = keyring or Keyring()

    def file(self, cluster: str, user: str) -> ProfileFile:
        """The file of one profile, whether it exists or not."""
        self._adopt_old()
        return ProfileFile(self._folder / file_name(cluster, user), self._keyring)

    def all(self) -> list[Credentials]:
        """All profiles, without the secrets that are in the keyring; by name."""
        self._adopt_old()
        found = (CredentialFile(path).load() for path in sorted(self._folder.glob("*.json")))
        return [profile for profile in found if profile is not None]

    def current(self) -> Credentials | None:
        """The profile that is meant when none is named."""
        try:
            name = (self._folder / CURRENT).read_text().strip()
        except OSError:
            return None
        return next((each for each in self.all() if file_name(each.cluster, each.user) == name), None)

    def make_current(self, cluster: str, user: str) -> None:
        """Mean this one from now on."""
        name = file_name(cluster, user)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self._folder / f"{CURRENT}.new"
        scratch.write_text(f"{name}\n")
        scratch.replace(self._folder / CURRENT)

    def remove(self, cluster: str, user: str) -> None:
        """Forget one profile."""
        current = self.current()
        if current is not None and (current.cluster, current.user) == (cluster, user):
            (self._folder / CURRENT).unlink(missing_ok=True)
        self.file(cluster, user).remove()

    def _adopt_old(self) -> None:
        """Make profiles of the files of before: one for each cluster, which did not tell its URL."""
        for path in sorted(self._old_folder.glob("*.json")):
            self._adopt(CredentialFile(path))

    def _adopt(self, old: CredentialFile) -> None:
        lock = old.try_lock()
        if lock is None:
            return  # another process is doing it
        with lock:
            kept = old.load()
            if kept is None:
                return
            new = ProfileFile(self._folder / file_name(kept.cluster, kept.user), self._keyring)
            if not new.path.exists():
                new.save(kept)
            old.remove()
