"""What the tests of ring 5 share: the package, built once."""

import os
from pathlib import Path

import pytest

from tests.e2e.steps import Said
from tests.support import packages


@pytest.fixture(scope="session", params=["", "trixie"], ids=["own", "trixie"])
def suite(request: pytest.FixtureRequest) -> str:
    """The release of Debian that packages and hosts are of: this machine's, and others that are asked for."""
    chosen: str = request.param
    if chosen and os.environ.get("MESHD_TEST_SUITE") != chosen:
        pytest.skip(f"takes minutes: make e2e SUITE={chosen}")
    return chosen


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, suite: str) -> Path:
    """The package as `make deb` builds it, or what MESHD_TEST_DEB names."""
    given = os.environ.get("MESHD_TEST_DEB")
    return Path(given) if given and not suite else packages.built(tmp_path_factory.mktemp("package"), suite)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Said:
    return Said(request)
