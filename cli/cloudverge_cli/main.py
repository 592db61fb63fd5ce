"""``cv``: the app is put together from the installed verbs, of which only the chosen one is imported."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from cloudverge_cli.catalog import Verb, installed_verbs
from cloudverge_cli.exits import exit_code, is_foreign, missing_extra
from cloudverge_protocol.errors import CloudVergeError


def main() -> None:
    """Entry point of ``cv``."""
    sys.exit(run(sys.argv[1:], installed_verbs()))


def run(arguments: Sequence[str], verbs: dict[str, Verb]) -> int:
    """Run one command line; the exit code is the answer, errors are one line on stderr."""
    chosen = verbs.get(next((word for word in arguments if not word.startswith("-")), ""))
    try:
        build_app(verbs, chosen)(args=list(arguments), prog_name="cv")
    except SystemExit as ended:
        return _code_of(ended)
    except CloudVergeError as error:
        return _complain(error.message, exit_code(error))
    except ModuleNotFoundError as error:
        if chosen is None or not is_foreign(error):
            raise
        return _complain(missing_extra(f"cv {chosen.name}", chosen.module, error.name), 1)
    return 0


def build_app(verbs: dict[str, Verb], chosen: Verb | None) -> typer.Typer:
    """The typer app: the chosen verb for real, the others as a name and a line of help."""
    app = typer.Typer(
        help="CloudVerge: a network filesystem. cvmount ~/cloud mounts your space; cv does the rest.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_nothing)
    for verb in verbs.values():
        if verb is chosen:
            _add(app, verb.name, verb.load())
        else:
            app.command(verb.name, help=verb.summary())(_not_chosen(verb))
    return app


def _add(app: typer.Typer, name: str, loaded: Callable[..., Any] | typer.Typer) -> None:
    if isinstance(loaded, typer.Typer):
        app.add_typer(loaded, name=name)
    else:
        app.command(name)(loaded)


def _nothing() -> None:
    """A callback keeps typer from taking a lone verb for the whole program."""


def _not_chosen(verb: Verb) -> Callable[[], Any]:
    def stand_in() -> None:
        raise AssertionError(f"{verb.name} was not chosen")

    return stand_in


def _code_of(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        return _complain(ended.code, 1)
    return ended.code or 0


def _complain(message: str, code: int) -> int:
    print(f"cv: {message}", file=sys.stderr)
    return code
