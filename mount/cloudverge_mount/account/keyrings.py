"""The system's keyring, where there is one: an optional library that may be missing, broken, or wait for ever.

So everything is asked in a thread of its own with a short patience, any failure is "there is none", and one that
once did not answer is not asked again by this process. Nothing may depend on a keyring.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

SERVICE: Final = "cloudverge"
WAIT_S: Final = 3.0
USABLE_PRIORITY: Final = 1  # below it are those that keep nothing, or keep it in a plain file

T = TypeVar("T")


class Keyring:
    """Secrets by name."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._silent = False

    def put(self, name: str, secret: str) -> bool:
        """Keep a secret; false where that cannot be."""

        def put(ring: Any) -> bool:  # noqa: ANN401  the library has no types
            ring.set_password(SERVICE, name, secret)
            return bool(ring.get_password(SERVICE, name) == secret)

        return self._asked(put) or False

    def get(self, name: str) -> str | None:
        """A secret that was kept."""
        return self._asked(lambda ring: ring.get_password(SERVICE, name))

    def forget(self, name: str) -> None:
        """Keep it no longer."""
        self._asked(lambda ring: ring.delete_password(SERVICE, name))

    def _asked(self, action: Callable[[Any], T]) -> T | None:
        """What ``action`` makes of the backend; None if it fails or takes too long."""
        if self._silent:
            return None
        outcome: list[T] = []

        def ask() -> None:
            try:
                ring = _backend()
                if ring is not None:
                    outcome.append(action(ring))
            except Exception:  # noqa: S110  a backend raises what it likes; there is no keyring then
                pass

        thread = threading.Thread(target=ask, name="keyring", daemon=True)
        thread.start()
        thread.join(self._wait_s)
        self._silent = thread.is_alive()
        return outcome[0] if outcome and not self._silent else None


def _backend() -> Any:  # noqa: ANN401  the library has no types
    """The backend, or None if none is to be trusted with a secret."""
    try:
        import keyring  # optional, and slow to import
    except ImportError:
        return None
    found = keyring.get_keyring()
    return found if found.priority >= USABLE_PRIORITY else None
