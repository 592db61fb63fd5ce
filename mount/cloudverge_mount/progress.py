"""What is still to be uploaded, shown while somebody waits: a live line on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterable
from typing import Any, Final

PLAIN_EVERY_S: Final = 5.0
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size_in_words(size_bytes: float) -> str:
    """``size_bytes`` for people."""
    for unit in UNITS:
        if size_bytes < 1024 or unit == UNITS[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def pending_in_words(status: dict[str, Any]) -> str:
    """What a status says is pending."""
    files, entries = status["pending_files"], status["pending_entries"]
    return f"{files} files ({size_in_words(status['pending_bytes'])}) and {entries} changes to go"


def show(answers: Iterable[dict[str, Any]]) -> None:
    """Consume the answers of a sync, showing how far it is; quiet when there is nothing to wait for."""
    if sys.stderr.isatty():
        _show_live(answers)
    else:
        _show_plainly(answers)


def _show_live(answers: Iterable[dict[str, Any]]) -> None:
    from rich.console import Console  # not needed, and slow to import, where nobody looks

    with Console(stderr=True).status("uploading") as line:
        for status in answers:
            line.update(f"uploading: {pending_in_words(status)}")


def _show_plainly(answers: Iterable[dict[str, Any]]) -> None:
    said_at = time.monotonic()
    for status in answers:
        if time.monotonic() - said_at > PLAIN_EVERY_S and not status.get("done"):
            print(f"uploading: {pending_in_words(status)}", file=sys.stderr)
            said_at = time.monotonic()
