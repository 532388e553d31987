"""meshd's configuration: one proxy before an origin that is not meshed, and two with the mesh between them.

Nothing is switched off: metrics, latency histograms, policies and the admin port are as they are by default.
"""

import json

from bench.scenario import Wiring
from tests.support.certificates import TRUST_DOMAIN

# what is written is YAML, of which JSON is a part


def one_hop(wiring: Wiring, protocol: str, *, tls: bool = False, origin: str = "auto") -> str:
    """One proxy: the upstream leads to the origin, in plain text; callers speak TLS to it where `tls` says so. The
    protocol is the upstream's, `origin` the service's."""
    return json.dumps(
        {
            "trustDomain": TRUST_DOMAIN,
            "admin": f"127.0.0.1:{wiring.admin[0]}",
            "workloads": [{"name": "web", "upstreams": [_upstream(wiring, protocol) | (_tls(wiring) if tls else {})]}],
            "services": [{"name": "origin", "port": 80, "protocol": origin, "endpoints": [_endpoint(wiring)]}],
        },
        indent=1,
    )


def outbound(wiring: Wiring, protocol: str = "auto") -> str:
    """The first of two proxies: the upstream leads to the second, by mutual TLS."""
    meshed = {**_endpoint(wiring), "workload": "api", "inboundPort": wiring.between}
    return json.dumps(
        {
            "trustDomain": TRUST_DOMAIN,
            "trustBundle": str(wiring.directory / "bundle.pem"),
            "admin": f"127.0.0.1:{wiring.admin[0]}",
            "workloads": [{"name": "web", **_identity(wiring, "web"), "upstreams": [_upstream(wiring, protocol)]}],
            "services": [{"name": "origin", "port": 80, "endpoints": [meshed]}],
        },
        indent=1,
    )


def inbound(wiring: Wiring, protocol: str = "auto") -> str:
    """The second of two proxies: it leads to the origin."""
    ports = [{"port": wiring.origin, "protocol": protocol}]
    return json.dumps(
        {
            "trustDomain": TRUST_DOMAIN,
            "trustBundle": str(wiring.directory / "bundle.pem"),
            "inbound": f"127.0.0.1:{wiring.between}",
            "admin": f"127.0.0.1:{wiring.admin[1]}",
            "workloads": [{"name": "api", **_identity(wiring, "api"), "ports": ports}],
        },
        indent=1,
    )


def _identity(wiring: Wiring, name: str) -> dict[str, str]:
    return {"certificate": str(wiring.directory / f"{name}.pem"), "key": str(wiring.directory / f"{name}.key")}


def _tls(wiring: Wiring) -> dict[str, object]:
    return {"tls": _identity(wiring, "api")}


def _upstream(wiring: Wiring, protocol: str) -> dict[str, object]:
    return {"service": "origin", "listen": f"127.0.0.1:{wiring.listen}", "protocol": protocol}


def _endpoint(wiring: Wiring) -> dict[str, object]:
    return {"address": "127.0.0.1", "port": wiring.origin}
