"""By what callers ask for a service in Consul, and the key that it becomes.

mesh names                          web, web.shop, web.mesh, …    instances of the Consul service `web` in that
                                                                  namespace: the `meshd-namespace` of their meta,
                                                                  `default` where it is absent
NAME.service[.DATACENTER].consul    Consul's own                  the Consul service, whatever the namespaces
TAG.NAME.service[.DC].consul        the same                      its instances with that tag
NAME.query[.DATACENTER].consul      a prepared query              what it gives when it is run
"""

import re
from typing import Final, Literal, NamedTuple

from discovery.names import Authority, mesh_name

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
"""A DNS label, or what Consul takes for one."""

_FORMS: Final[dict[str, frozenset[int]]] = {"service": frozenset({1, 2}), "query": frozenset({1})}
"""How many labels may stand before the word: a tag is in front of a service's name."""


class Key(NamedTuple):
    """One service. `kind` is `mesh` (a name of the mesh, which settings may map), `service` or `query` (names of
    Consul). `port`: that callers named; 0 when none."""

    kind: Literal["mesh", "service", "query"]
    name: str
    namespace: str = ""
    tag: str = ""
    datacenter: str = ""
    port: int = 0


def claim(authority: Authority, domain: str) -> Key | None:
    """What authority means where Consul's domain is `domain`; None: nothing of Consul's."""
    port = authority.port or 0
    if authority.host.endswith(f".{domain}"):
        labels = authority.host.removesuffix(f".{domain}").split(".")
        if (found := _of_consul(labels, port)) is not None:
            return found
    name = mesh_name(authority)
    return None if name is None else Key("mesh", *name, port=port)


def _of_consul(labels: list[str], port: int) -> Key | None:
    """The key of a name without the domain; the word may be last, or the datacenter after it."""
    if not all(map(_LABEL.fullmatch, labels)):
        return None
    for after in (0, 1):
        place = len(labels) - 1 - after
        if place < 1 or place not in _FORMS.get(labels[place], ()):
            continue
        tag, name = labels[:place] if place == 2 else ("", labels[0])
        datacenter = labels[-1] if after else ""
        return Key("query" if labels[place] == "query" else "service", name, "", tag, datacenter, port)
    return None
