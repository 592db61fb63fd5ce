"""The command line: verbs are listed without being imported, errors become one line and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from cloudverge_cli.catalog import Verb, installed_verbs
from cloudverge_cli.exits import exit_code, missing_extra
from cloudverge_cli.main import run
from cloudverge_protocol.errors import CloudVergeError, Code, make_error

VERBS = '''
import {imported}
import typer
from cloudverge_protocol.errors import Code, Denied

def greet(name: str, loud: bool = False) -> None:
    """Say hello to somebody.

    More than one line is not listed.
    """
    print(name.upper() if loud else name)

def fail() -> None:
    """Always denied."""
    raise Denied(Code.FORBIDDEN, "space 7 is not yours")

boat = typer.Typer(help="Boats, and what is done with them.\\nNot listed.")

@boat.callback(invoke_without_command=True)
def boats(context: typer.Context) -> None:
    """Lists, where no verb is named."""
    if context.invoked_subcommand is None:
        print("no boats")

@boat.command()
def row(strokes: int) -> None:
    """Row."""
    if strokes > 9:
        raise Denied(Code.FORBIDDEN, "too far")
    print("splash " * strokes)
'''


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    """Builds a catalogue of three verbs, one of them a group, whose module imports a given library."""

    def build(imported: str = "os") -> dict[str, Verb]:
        name = f"made_{tmp_path.name}"
        package = tmp_path / f"{name}_room"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "verbs.py").write_text(VERBS.format(imported=imported))
        monkeypatch.syspath_prepend(str(tmp_path))
        module = f"{name}_room.verbs"
        return {name: Verb(name, module, name) for name in ("greet", "fail", "boat")}

    return build


def test_help_lists_every_verb_with_a_line_and_imports_none(verbs, capsys):
    made = verbs("no_such_library")
    assert run(["--help"], made) == 0
    printed = capsys.readouterr().out
    assert "greet  Say hello to somebody." in printed
    assert "More than one line" not in printed
    assert "boat   Boats, and what is done with them.\n" in printed
    assert "Not listed" not in printed
    assert made["greet"].module not in sys.modules


def test_the_chosen_verb_runs_with_its_options(verbs, capsys):
    assert run(["greet", "--loud", "ann"], verbs()) == 0
    assert capsys.readouterr().out == "ANN\n"


def test_an_error_is_one_line_on_stderr_and_an_exit_code(verbs, capsys):
    assert run(["fail"], verbs()) == 1
    captured = capsys.readouterr()
    assert captured.err == "cv: space 7 is not yours\n"
    assert captured.out == ""


def test_wrong_usage_ends_with_2(verbs):
    assert run(["greet"], verbs()) == 2
    assert run(["nonsense"], verbs()) == 2


def test_a_verb_without_its_library_names_the_install_that_brings_it(verbs, capsys):
    assert run(["greet", "ann"], verbs("no_such_library")) == 1
    assert "no_such_library" in capsys.readouterr().err
    assert 'pip install "cloudverge[mount]"' in missing_extra("cv sync", "cloudverge_mount.verbs", "trio")
    assert 'pip install "cloudverge[embedded]"' in missing_extra(
        "cv up", "cloudverge_embedded.verbs", "asyncpg"
    )


def test_a_missing_module_of_our_own_is_a_bug_and_shows_as_one(verbs):
    with pytest.raises(ModuleNotFoundError):
        run(["greet", "ann"], verbs("cloudverge_nonsense"))


@pytest.mark.parametrize("code", list(Code))
def test_every_error_has_an_exit_code_of_its_own_kind(code):
    error = make_error(code)
    assert exit_code(error) in (1, 4, 5, 6, 7)
    assert exit_code(error) != 2  # wrong usage is typer's


def test_whoever_lacks_a_right_is_refused_like_everybody_else():
    assert exit_code(make_error(Code.FORBIDDEN)) == exit_code(make_error(Code.NOT_FOUND)) == 1


def test_a_group_has_verbs_of_its_own(verbs, capsys):
    assert run(["boat", "row", "2"], verbs()) == 0
    assert capsys.readouterr().out == "splash splash \n"
    assert run(["boat"], verbs()) == 0
    assert capsys.readouterr().out == "no boats\n"
    assert run(["boat", "row", "10"], verbs()) == 1
    assert capsys.readouterr().err == "cv: too far\n"
    assert run(["boat", "fly"], verbs()) == 2


def test_an_unknown_kind_of_error_is_a_plain_failure():
    assert exit_code(CloudVergeError(Code.INTERNAL)) == 1


def test_the_installed_verbs_are_those_of_the_rooms():
    assert {"up", "down", "status", "sync", "install-helper"} <= set(installed_verbs())


def test_help_of_the_installed_program_imports_no_room(tmp_path: Path):
    code = (
        "import sys; from cloudverge_cli.catalog import installed_verbs; from cloudverge_cli.main import run;"
        "run(['--help'], installed_verbs());"
        "bad = {'cloudverge_mount', 'cloudverge_embedded', 'trio', 'asyncpg', 'pyfuse3'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
