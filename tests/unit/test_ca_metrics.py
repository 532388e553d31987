"""The CA's page of metrics, as Prometheus reads it: what was counted, and what is in its store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshd.admin.ca import CaMetrics
from meshd.admin.page import Page
from meshd.ca import certificates
from meshd.ca.authority import Authority
from meshd.ca.certificates import Life
from meshd.ca.counts import Counts
from meshd.ca.records import Denied
from tests.support.metrics import samples
from tests.support.stores import DAY_S, NOW, entry, join_token


@dataclass
class Server:
    """A server that is not started."""

    counts: Counts = field(default_factory=Counts)
    connections: int = 4
    waiting: int = 2


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with closing(Authority.create(tmp_path / "ca", "prod.example", NOW, audited=False)) as made:
        yield made


def says(authority: Authority, server: Server, now: float = NOW) -> dict[str, float]:
    return samples(Page(CaMetrics(authority, server, lambda: now)).render())


def test_requests_by_how_they_ended(authority: Authority) -> None:
    server = Server()
    counts = server.counts
    counts.issued["renew"] += 1
    counts.answered("/v1/sign", 200, 0.001)
    counts.answered("/v1/sign", 403, 0.003)
    counts.answered("/v1/join", 429, 20.0)
    counts.answered("/v1/bundle", 200, 19.0, waits=True)
    counts.answered("/anything", 404, 0.003)
    said = says(authority, server)
    assert said['meshd_ca_certificates_issued_total{action="renew"}'] == 1
    assert said['meshd_ca_certificates_issued_total{action="join"}'] == 0
    assert said['meshd_ca_requests_refused_total{action="sign",reason="forbidden"}'] == 1
    assert said['meshd_ca_requests_refused_total{action="sign",reason="unauthenticated"}'] == 0
    assert said['meshd_ca_requests_refused_total{action="join",reason="rate_limited"}'] == 1
    assert said['meshd_ca_requests_refused_total{action="other",reason="other"}'] == 1
    took = "meshd_ca_request_duration_seconds"
    bounds = {"0.001": 1, "0.0025": 1, "0.005": 2, "10.0": 2, "+Inf": 2}
    assert {bound: said[f'{took}_bucket{{action="sign",le="{bound}"}}'] for bound in bounds} == bounds
    assert said[f'{took}_sum{{action="sign"}}'] == pytest.approx(0.004)
    assert said[f'{took}_bucket{{action="join",le="10.0"}}'] == 0
    assert said[f'{took}_count{{action="join"}}'] == 1
    assert f'{took}_count{{action="bundle"}}' not in said
    assert (said["meshd_ca_connections"], said["meshd_ca_agents_waiting"]) == (4, 2)


def test_what_is_in_the_store(authority: Authority) -> None:
    store = authority.store
    store.add_join_token(join_token("t1"))
    store.add_join_token(join_token("t2"))
    store.revoke_join_token("t2", NOW)
    store.add_entry(entry(1, "vm*", "default/web"))
    store.deny([Denied("node", "vm9", "stolen", NOW)])
    said = says(authority, Server())
    assert said["meshd_ca_store_up"] == 1
    assert said['meshd_ca_join_tokens{state="valid"}'] == 1
    assert said['meshd_ca_join_tokens{state="revoked"}'] == 1
    assert said['meshd_ca_join_tokens{state="used_up"}'] == 0
    assert (said["meshd_ca_nodes"], said["meshd_ca_entries"]) == (0, 1)
    assert said['meshd_ca_denied_entries{kind="node"}'] == 1
    assert said["meshd_ca_trust_sequence"] == store.sequence()
    assert said["meshd_ca_store_errors_total"] == 0
    assert says(authority, Server(), NOW + DAY_S)['meshd_ca_join_tokens{state="expired"}'] == 1


def test_a_store_that_is_damaged_is_said_and_the_rest_is_there(authority: Authority, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ca" / "ca.db")) as database:
        database.execute("DROP TABLE nodes")
    said = says(authority, Server())
    assert said["meshd_ca_store_up"] == 0
    assert said["meshd_ca_store_errors_total"] == 1
    assert "meshd_ca_nodes" not in said
    own = authority.own
    for what, certificate in (("root", own.root), ("issuer", own.issuer.certificate)):
        name = f'meshd_ca_{what}_expiration_timestamp_seconds{{serial="{certificates.serial(certificate)}"}}'
        assert said[name] == Life.of(certificate).not_after
