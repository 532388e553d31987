"""What the name server's tests ask it of: a discovery whose services a test gives."""

from collections.abc import Callable

from discovery.names import Authority, mesh_name
from discovery.source import Close
from meshd.api.endpoints import EndpointSet, ServiceName

Found = Callable[[EndpointSet | None], None]


class Services:
    """As a chain has it. `there` are the hosts of services, `away` those of which nothing can be said."""

    def __init__(self, *there: str) -> None:
        self.there, self.away = set(there), set[str]()
        self.watching: dict[str, Found] = {}
        self.watched = 0

    def watch(self, authority: Authority, answered: Found) -> Close:
        self.watched += 1
        self.watching[authority.host] = answered
        if authority.host not in self.away:
            self.say(authority.host)
        return lambda: self.watching.pop(authority.host, None) and None

    def say(self, host: str) -> None:
        name, namespace = mesh_name(Authority(host, None, "default")) or (host, "")
        found = EndpointSet(ServiceName(name, namespace, 80)) if host in self.there else None
        if answered := self.watching.get(host):
            answered(found)
