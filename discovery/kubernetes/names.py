"""The names that mean a Service of a cluster.

a mesh name             web  web.shop  web.mesh  web.shop.svc  web.shop.svc.cluster.local
one of the domain       web.shop.svc.k8s.example, where the cluster's domain is k8s.example
a pod by its host name  db-0.db.shop.svc  db-0.db.shop.svc.cluster.local: of a headless Service, as StatefulSets
                        have them
"""

from typing import Final, NamedTuple

from discovery.names import Authority, mesh_name
from meshd.api.names import is_label

CLUSTER_DOMAIN: Final = "cluster.local"


class ServiceKey(NamedTuple):
    """A port of a Service; 0 where none was named. `hostname`: of its endpoints the one with that host name.
    `family`: of a Service of two families those of that one (`IPv4`, `IPv6`); empty for the Service's first."""

    namespace: str
    name: str
    port: int = 0
    hostname: str = ""
    family: str = ""


def claim(authority: Authority, cluster_domain: str) -> ServiceKey | None:
    """The Service that authority names by its form; None when it has none of the forms above."""
    port = authority.port or 0
    found = mesh_name(authority)
    if found is not None:
        return ServiceKey(found[1], found[0], port)
    return _in_cluster(authority.host, cluster_domain, port)


def alias(name: str, cluster_domain: str) -> ServiceKey | None:
    """The Service that an ExternalName leads to, where it leads into the same cluster."""
    return _in_cluster(name.lower().removesuffix("."), cluster_domain, 0)


def _in_cluster(host: str, cluster_domain: str, port: int) -> ServiceKey | None:
    for suffix in (".svc", f".svc.{CLUSTER_DOMAIN}", f".svc.{cluster_domain}"):
        if host.endswith(suffix):
            labels = host.removesuffix(suffix).split(".")
            if not all(map(is_label, labels)):
                return None
            if len(labels) == 2:
                return ServiceKey(labels[1], labels[0], port)
            if len(labels) == 3:
                return ServiceKey(labels[2], labels[1], port, labels[0])
    return None
