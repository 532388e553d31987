"""What the tests of ring 5 share: the package, built once."""

import os
from pathlib import Path

import pytest

from tests.e2e.steps import Said
from tests.support import packages


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as `make deb` builds it, or what MESHD_TEST_DEB names."""
    given = os.environ.get("MESHD_TEST_DEB")
    return Path(given) if given else packages.built(tmp_path_factory.mktemp("package"))


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Said:
    return Said(request)
