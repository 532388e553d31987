"""A CA in a contender's directory, and the nodes of its mesh, which are what a load asks it as.

ca/             what `meshd ca init` makes; its bundle.pem is what the nodes believe
ca.yaml         its settings
server.pem      a certificate for a server at 127.0.0.1, with its key
nodes/N.pem     key and certificate of the node `nN`
nodes/N.csr     what it has signed for a workload
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.scenario import Wiring
from meshd.agent import node
from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.ca.authority import Authority
from meshd.ca.certificates import new_key
from meshd.ca.issuing import Wanted
from meshd.ca.records import JoinToken, hashed
from meshd.ca.requester import Joining, Requester

TRUST_DOMAIN: Final = "bench.example"
WORKLOAD: Final = "default/web"
IDENTITY: Final = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"


def lay(directory: Path, nodes: int) -> None:
    """Make the CA, and have so many nodes join."""
    now = time.time()
    authority = Authority.create(directory / "ca", TRUST_DOMAIN, now, audited=False)
    server, _ = authority.issue_server(("127.0.0.1",), now)
    (directory / "server.pem").write_bytes(server)
    kept = directory / "nodes"
    kept.mkdir()
    token = JoinToken("bench", hashed(b"bench"), "*", (WORKLOAD,), max(nodes, 1), 0, now, now + 3600.0)
    authority.store.add_join_token(token)
    asking = Requester(token.origin, Joining(token), "127.0.0.1", token=token)
    keys = [new_key() for _ in range(nodes)]
    hosts = [Identity.of_host(TRUST_DOMAIN, f"n{number}") for number in range(nodes)]
    wanted = [Wanted(node.request(key), host, now, asking) for key, host in zip(keys, hosts, strict=True)]
    for number, (key, signed) in enumerate(zip(keys, authority.issue_all(wanted), strict=True)):
        assert isinstance(signed, Certificate), signed
        node.write(kept / f"{number}.pem", key, signed.chain_pem)
        (kept / f"{number}.csr").write_text(node.request(new_key()), encoding="utf-8")
    authority.close()


def daemon(nodes: int) -> Callable[[Wiring], str]:
    """The command line of the CA of so many nodes, as JSON: no file of a CA says where it listens."""

    def configuration(wiring: Wiring) -> str:
        lay(wiring.directory, nodes)
        settings = wiring.directory / "ca.yaml"
        settings.write_text(f'admin: "127.0.0.1:{wiring.admin[0]}"\n', encoding="utf-8")
        where = ("--state-dir", str(wiring.directory / "ca"), "--config", str(settings))
        return json.dumps(["ca", "serve", *where, "--listen", f"127.0.0.1:{wiring.listen}", "--log-level", "warning"])

    return configuration
