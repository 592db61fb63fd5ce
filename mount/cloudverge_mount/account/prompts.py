"""Secrets and decisions, from whoever sits at the terminal, from standard input, or from a file: never from argv."""

import getpass
import sys
from pathlib import Path
from typing import Final

from cloudverge_protocol.errors import Code, Refused

SECRET_BYTES_MAX: Final = 4096


def at_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Ask a question that yes answers; without a terminal the answer is no."""
    if not at_terminal():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def password(what: str, *, from_stdin: bool, twice: bool = False) -> str:
    """A password: typed at a prompt, or a line of standard input. Raises Refused when there is neither."""
    if from_stdin:
        return line_of_stdin(what)
    if not at_terminal():
        raise Refused(Code.INVALID, f"nobody is here to type the {what}: --password-stdin reads it")
    typed = getpass.getpass(f"{what}: ")
    if twice and getpass.getpass(f"{what}, once more: ") != typed:
        raise Refused(Code.INVALID, "the two passwords differ")
    return _not_empty(typed, what)


def line_of_stdin(what: str) -> str:
    """One line of standard input. Raises Refused."""
    return _not_empty(sys.stdin.readline(SECRET_BYTES_MAX).rstrip("\r\n"), what)


def invitation(file: Path | None, *, needed: bool = False) -> str:
    """An invitation from a file, or typed when one is ``needed``; empty: none. Raises Refused."""
    if file is not None:
        return secret_in(file, "invitation")
    if not needed or not at_terminal():
        return ""
    return _not_empty(getpass.getpass("invitation: ").strip(), "invitation")


def secret_in(file: Path, what: str, *, private: bool = False) -> str:
    """The secret in a file; ``private``: which nobody else may read. Raises Refused."""
    try:
        if private and file.stat().st_mode & 0o077:
            raise Refused(Code.NOT_PERMITTED, f"{file} can be read by others: chmod 600 {file}")
        with file.open("rb") as opened:
            text = opened.read(SECRET_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Refused(Code.INVALID, f"{file} gives no {what}: {reason}") from None
    return _not_empty(text.strip(), what)


def _not_empty(text: str, what: str) -> str:
    if not text:
        raise Refused(Code.INVALID, f"the {what} is empty")
    return text
