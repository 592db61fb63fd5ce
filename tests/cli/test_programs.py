"""The programs start with their room's ``main``, and say in one line what is missing where they cannot."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BLOCKED = {"cvmount": "trio", "cvumount": "trio", "mount.fuse.cloudverge": "trio"}


def start(script: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run a console script as pip would write it, in an interpreter that lacks some libraries."""
    module, function = SCRIPTS[script].split(":")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.argv = [{script!r}, '--help']; "
        f"from {module} import {function}; {function}()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_program_exists_and_has_help(script):
    module, function = SCRIPTS[script].split(":")
    assert callable(getattr(import_module(module), function))
    done = start(script)
    assert done.stdout or done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", [each for each in SCRIPTS if each != "cv"])
def test_a_program_without_its_libraries_names_the_install_that_brings_them(script):
    library = BLOCKED.get(script, "uvicorn")
    done = start(script, library, "asyncpg")
    assert done.returncode == 1
    extra = "mount" if script in BLOCKED else "server"
    assert f'pip install "cloudverge[{extra}]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1
