"""What verbs print: tables for people, JSON for programs.

Names, paths and labels come from other people. On a terminal their control characters are shown, never obeyed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import typer

GAP: Final = "  "

T = TypeVar("T")


def show(
    rows: Sequence[T], columns: Mapping[str, Callable[[T], object]], *, as_json: bool, none: str
) -> None:
    """Print rows as a table, or all there is of them as a JSON array. ``none`` says that there are none."""
    if as_json:
        show_json(rows)
    elif not rows:
        typer.echo(none)
    else:
        cells = [[_cell(column(row)) for column in columns.values()] for row in rows]
        typer.echo(table([list(columns), *cells]))


def show_json(thing: object) -> None:
    """Print one JSON value."""
    typer.echo(msgspec.json.encode(thing).decode())


def say(text: str) -> None:
    """Something for people beside the result: on stderr, where it is in no pipe's way."""
    typer.echo(clean(text), err=True)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, aligned. Pure."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = (GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def clean(text: str) -> str:
    """The text without characters that a terminal obeys. Pure."""
    return "".join(
        each if each.isprintable() or each == " " else each.encode("unicode_escape").decode() for each in text
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))
