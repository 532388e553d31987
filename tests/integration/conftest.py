"""Fixtures of several files of this ring."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import BACKENDS, Backend, Kind


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.peer(*kind.programs)) for name, kind in BACKENDS.items()])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of back end of discovery, one after the other."""
    return BACKENDS[request.param]


@pytest.fixture
def backend(kind: Kind, tmp_path: Path) -> Iterator[Backend]:
    """A registry of that kind, which runs."""
    directory = tmp_path / "registry"
    directory.mkdir()
    with kind.begun(directory) as begun:
        yield begun
