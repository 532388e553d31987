"""What a meshed command finds in its environment.

    http_proxy, HTTP_PROXY   http://OUTBOUND: HTTP clients that know the variable call through the mesh
    no_proxy, NO_PROXY       what was there, and loopback: a process's calls to its own host are not meshed
    MESHD_WORKLOAD           NAMESPACE/NAME
    MESHD_IDENTITY           its SPIFFE ID
    MESHD_TRUST_DOMAIN       the trust domain of that
    MESHD_OUTBOUND           HOST:PORT of the outbound listener
    MESHD_ADMIN              HOST:PORT of /metrics, /ready and /live
    MESHD_UPSTREAM_NAME      HOST:PORT that leads to the service NAME, one for each --upstream

The secret that the workload's proxy attaches with is not among them.
"""

import re
from collections.abc import Mapping, Sequence

from meshd.api.documents import Upstream
from meshd.api.names import Address, Identity

NEVER_PROXIED = ("localhost", "127.0.0.1", "::1")


def upstream_variable(service: str) -> str:
    """The variable of the upstream to a service: `api.shop:80` is MESHD_UPSTREAM_API_SHOP_80."""
    return "MESHD_UPSTREAM_" + re.sub(r"[^A-Z0-9]", "_", service.upper())


def command_environment(
    inherited: Mapping[str, str], identity: str, outbound: Address, admin: Address, upstreams: Sequence[Upstream]
) -> dict[str, str]:
    """The environment of the command: what was inherited, and what makes it meshed."""
    named = Identity.parse(identity)
    no_proxy = _no_proxy(inherited)
    return {
        **inherited,
        "http_proxy": f"http://{outbound}",
        "HTTP_PROXY": f"http://{outbound}",
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "MESHD_WORKLOAD": str(named.workload),
        "MESHD_IDENTITY": identity,
        "MESHD_TRUST_DOMAIN": named.trust_domain,
        "MESHD_OUTBOUND": str(outbound),
        "MESHD_ADMIN": str(admin),
        **{upstream_variable(each.service): each.listen for each in upstreams},
    }


def _no_proxy(inherited: Mapping[str, str]) -> str:
    """Both spellings joined, in order, without repetition: programs differ in which one they read."""
    written = f"{inherited.get('no_proxy', '')},{inherited.get('NO_PROXY', '')}".split(",")
    entries = [each.strip() for each in written] + list(NEVER_PROXIED)
    return ",".join(dict.fromkeys(each for each in entries if each))
