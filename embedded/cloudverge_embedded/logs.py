"""Log files of the children: bounded in size, and quotable when a child fails.

Children append to their file themselves, so turning a log over is copy and truncate; lines written in
between the two may be lost, which is the price of needing nothing from the children.
"""

import shutil
from pathlib import Path

LIMIT_BYTES = 8 << 20
_TAIL_BYTES = 16_384


def turn_over(path: Path, limit_bytes: int = LIMIT_BYTES) -> bool:
    """Move the content of a grown log to ``NAME.log.1``; true if it was time."""
    try:
        if path.stat().st_size <= limit_bytes:
            return False
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        with path.open("r+b") as file:
            file.truncate()
    except OSError:
        return False  # a full disk must not stop the supervisor
    return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for a message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
