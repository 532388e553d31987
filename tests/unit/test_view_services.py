"""`meshd services` from what the agent says."""

from meshd.api.control import Services, ServiceStatus
from meshd.view.services import as_data, as_text, notes

NOW = 1_800_000_000.0

WEB = ServiceStatus(
    "consul", "web", "known", "default", 80, "http", 3, 2, 4, read_at=NOW - 5, changed_at=NOW - 3700
)  # fmt: skip
API = ServiceStatus(
    "consul", "api", "known", "shop", 80, "auto", 1, 1, 1, NOW - 200, NOW - 900, NOW - 190, "refused"
)  # fmt: skip
NOBODY = ServiceStatus("consul", "mesh/nobody\x1b", "unknown", watchers=1, read_at=NOW - 5)
SILENT = ServiceStatus("consul", "mesh/db", "cannot say", watchers=1, stale_since=NOW - 60, trouble="refused")
LOCAL = ServiceStatus("local", "me", "known", "default", 8080, "auto", 1, 1)
ALL = Services((WEB, API, NOBODY, SILENT, LOCAL), 3)


def test_the_table() -> None:
    assert as_text(ALL.services, NOW) == (
        "NAMESPACE  NAME          PORT  PROTOCOL  MESHED  SOURCE  STATE       AGE    WATCHERS\n"
        "default    web           80    http      2/3     consul  ok          5s     4\n"
        "shop       api           80    auto      1/1     consul  stale       3m20s  1\n"
        "-          mesh/nobody?  -     -         -       consul  unknown     5s     1\n"
        "-          mesh/db       -     -         -       consul  cannot-say  -      1\n"
        "default    me            8080  auto      1/1     local   ok          -      0\n"
    )
    assert as_text((), NOW) == ""


def test_wide_says_since_when() -> None:
    heading, web, api, *_ = as_text(ALL.services, NOW, wide=True).splitlines()
    assert heading.split()[-2:] == ["CHANGED", "STALE_FOR"]
    assert (web.split()[-2:], api.split()[-2:]) == (["1h1m", "-"], ["15m0s", "3m10s"])


def test_each_trouble_is_said_once() -> None:
    assert list(notes(ALL)) == ["consul: 2 services: refused", "3 more services are not shown"]
    assert list(notes(Services((API, LOCAL)))) == ["consul: 1 service: refused"]


def test_data_has_the_fields_under_their_own_names() -> None:
    data = as_data(ALL)
    assert data["services"][0]["meshed"] == 2
    assert data["services"][1]["trouble"] == "refused"
    assert (data["left_off"], "type" in data) == (3, False)
