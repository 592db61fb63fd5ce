"""Which verbs are installed, what each says of itself, and how one is loaded.

A verb is a function, or a group of verbs: a typer app at the top of a module, ``NAME = typer.Typer(help="...")``.
Its one line of help is the first line of the function's docstring, or of the app's ``help``, read from the source
file without importing it: the listing must work, and be quick, where the verb's own libraries are missing.

Must never import a verb's module except in ``Verb.load``.
"""

import ast
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import typer

GROUP = "cloudverge.verbs"


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of ``cv``: its name and the function, or the group of further verbs, that does it."""

    name: str
    module: str
    function: str

    def summary(self) -> str:
        """What the verb says of itself in one line, or nothing if its source cannot be read."""
        source = _source_of(self.module)
        return _first_line(source, self.function) if source else ""

    def load(self) -> Callable[..., Any] | typer.Typer:
        """Import the function or group; raises ModuleNotFoundError if a library it needs is missing."""
        found = getattr(importlib.import_module(self.module), self.function)
        if not callable(found):
            raise TypeError(f"{self.module}:{self.function} is not a function")
        return found  # type: ignore[no-any-return]


def installed_verbs(entries: Iterable[EntryPoint] | None = None) -> dict[str, Verb]:
    """All installed verbs by name, in alphabetical order."""
    found = entry_points(group=GROUP) if entries is None else entries
    verbs = (Verb(entry.name, entry.module, entry.attr) for entry in found)
    return {verb.name: verb for verb in sorted(verbs, key=lambda verb: verb.name)}


def _source_of(module: str) -> str | None:
    """The text of a module's file. Only the top package is looked up, and that is not imported."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *below)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate.read_text(encoding="utf-8")
    return None


def _first_line(source: str, name: str) -> str:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.Assign) and _targets(node) == [name] and isinstance(node.value, ast.Call):
            return _help_in(node.value).partition("\n")[0]
    return ""


def _targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _help_in(call: ast.Call) -> str:
    """The constant given as ``help`` in a call."""
    for keyword in call.keywords:
        if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""
