"""Certificates from one CA daemon with SQLite, asked for by nodes that joined."""

from dataclasses import replace

from bench.configure import ca
from bench.contenders import MESHD_CA, python
from bench.loads.nodes import Sign
from bench.origins import signing
from bench.scenario import Case, Contender, Promise, Scenario, Unit

NODES = 200
"""Each may have 20 a second, after a burst."""

SIGNING = replace(python(signing.__name__), name="signature")

SCENARIO = Scenario(
    name="ca",
    title="Certificates from one CA",
    about="Nodes have certificates signed over TLS 1.3 in which each shows its own, 8 at a time; each is in SQLite and "
    "in the audit log, synced, before it leaves. `signature` is a server on the same TLS that does nothing but one "
    "ECDSA signature (P-256) for each request.",
    origin=None,
    contenders=(
        Contender(MESHD_CA, (ca.daemon(NODES),)),
        Contender(SIGNING, (signing.configuration(NODES),)),
    ),
    cases=(
        Case("a connection for each", Sign(NODES, at_once=8), (Promise(500), Promise(50, "p99_ms"))),
        Case("connections kept", Sign(NODES, at_once=8, kept=True)),
    ),
    unit=Unit("certificates/s", "certificate"),
)
