"""`meshd diagnostics config` from what an agent answers."""

import json

import pytest
import yaml

from meshd.api.control import Configuration, ConfigurationFinding, ConfigurationPlace, ConfiguredDocument
from meshd.cli.diagnostics import render

NOW = 1_800_000_000.0

PLACES = (
    ConfigurationPlace("file", "/etc/meshd/meshd.yaml", NOW - 60, False),
    ConfigurationPlace("consul", "consul:meshd/config/", NOW - 600, True),
)
WEB = ConfiguredDocument(
    "Workload", "default", "web", "file", "/etc/meshd/meshd.yaml:3", NOW - 3720, stale=False, shadowed_by=""
)
API = ConfiguredDocument("Service", "shop", "api", "consul", "consul:meshd/config/api:1", NOW - 90, True, "")
OTHER = ConfiguredDocument(
    "Workload", "default", "web", "consul", "consul:meshd/config/web:1", NOW - 5, True, WEB.origin
)
REFUSED = ConfigurationFinding(
    "consul", "consul:meshd/config/x", "document 1 (Service x)", "spec.port", "expected\x1b[2J"
)


def test_the_table_says_what_is_in_force_and_where_it_came_from() -> None:
    found = Configuration(PLACES, (WEB, API, OTHER), (REFUSED,), left_out=2)
    assert render(found, "table", NOW).splitlines() == [
        "KIND      NAMESPACE  NAME  SOURCE  AGE    STATE     ORIGIN                     BY",
        "Service   shop       api   consul  1m30s  stale     consul:meshd/config/api:1  -",
        "Workload  default    web   file    1h2m   in-force  /etc/meshd/meshd.yaml:3    -",
        "Workload  default    web   consul  5s     shadowed  consul:meshd/config/web:1  /etc/meshd/meshd.yaml:3",
        "",
        "and 2 more",
        "",
        "refused (what was last good stays in force):",
        "  consul:meshd/config/x: document 1 (Service x): spec.port: expected?[2J",
    ]


@pytest.mark.parametrize(
    ("places", "said"),
    [(PLACES, "There is no document in /etc/meshd/meshd.yaml, consul:meshd/config/.\n"),
     ((), "This agent reads no documents.\n")],
)  # fmt: skip
def test_where_there_is_nothing_it_is_said_where_was_looked(places: tuple[ConfigurationPlace, ...], said: str) -> None:
    assert render(Configuration(places, (), ()), "table", NOW) == said


def test_data_has_what_documents_say_where_that_was_asked_for() -> None:
    told = ConfiguredDocument("Service", "a", "b", "file", "f:1", NOW, False, "", {"kind": "Service"})
    found = Configuration(PLACES[:1], (told, WEB), ())
    data = json.loads(render(found, "json", NOW))
    assert data == yaml.safe_load(render(found, "yaml", NOW))
    assert data["places"][0]["source"] == "file"
    assert data["documents"][0]["document"] == {"kind": "Service"}
    assert "document" not in data["documents"][1]
