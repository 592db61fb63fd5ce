"""What all tests share: fixtures of tests/fixtures, the loop of asyncio tests, Hypothesis profiles.

asyncio tests are marked ``pytest.mark.anyio``, trio tests ``pytest.mark.trio``. Hypothesis runs the profile
"dev", in CI (environment variable CI) the larger "ci"; HYPOTHESIS_PROFILE overrides.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.fixtures, however pytest was started

from tests.fixtures.postgres import database, postgres

__all__ = ["anyio_backend", "database", "postgres"]

_calm = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=_calm)
settings.register_profile("ci", max_examples=100, deadline=None, suppress_health_check=_calm)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Servers run on asyncio; tests marked ``anyio`` do too."""
    return "asyncio"
