"""Lists of objects: where each kind is, what it is read as, and one page after the other.

A list is bounded in its answers and in its length; what is not as the API has it is Away.
"""

import math
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from discovery.kubernetes.access import Access
from discovery.kubernetes.objects import Custom, EndpointSlice, Labelled, Listed, Namespace, Pod, Service, Versioned
from discovery.registry import Away

PAGE: Final = 500

MAX_OBJECTS: Final = 20_000
"""That are kept of one list."""

MAX_LISTED: Final = 200_000
"""That are gone through, where only some of them are kept."""

SERVICE_NAME: Final = "kubernetes.io/service-name"
"""The label by which a slice says whose it is."""

Content = TypeVar("Content", Service, EndpointSlice, Pod, Custom, Namespace)


class Query(NamedTuple):
    """Which objects: of a namespace (of all when it is empty), by labels and by fields."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        given = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in given.items() if value}


class Resource(NamedTuple, Generic[Content]):
    """A kind of object: where it is, and what its list and its objects are read as. `service` says which Service one is
    of, and `of` is the query for those of one Service (namespace, name); Pods are of none."""

    prefix: str
    plural: str
    list_kind: str
    page: "msgspec.json.Decoder[Listed[Content]]"
    one: "msgspec.json.Decoder[Content]"
    service: Callable[[Labelled | Versioned], str] = lambda _: ""
    of: Callable[[str, str], Query] = lambda namespace, _: Query(namespace)

    def path(self, namespace: str = "", name: str = "") -> str:
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{self.prefix}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


SERVICES: Final = Resource(
    "/api/v1",
    "services",
    "ServiceList",
    msgspec.json.Decoder(Listed[Service]),
    msgspec.json.Decoder(Service),
    lambda meta: meta.name,
    lambda namespace, name: Query(namespace, fields=f"metadata.name={name}"),
)
SLICES: Final = Resource(
    "/apis/discovery.k8s.io/v1",
    "endpointslices",
    "EndpointSliceList",
    msgspec.json.Decoder(Listed[EndpointSlice]),
    msgspec.json.Decoder(EndpointSlice),
    lambda meta: meta.labels.get(SERVICE_NAME, ""),
    lambda namespace, name: Query(namespace, labels=f"{SERVICE_NAME}={name}"),
)
PODS: Final = Resource("/api/v1", "pods", "PodList", msgspec.json.Decoder(Listed[Pod]), msgspec.json.Decoder(Pod))
NAMESPACES: Final = Resource(
    "/api/v1",
    "namespaces",
    "NamespaceList",
    msgspec.json.Decoder(Listed[Namespace]),
    msgspec.json.Decoder(Namespace),
)


async def pages(
    access: Access,
    resource: Resource[Content],
    query: Query,
    most: int = MAX_OBJECTS,
    most_bytes: float = math.inf,
) -> AsyncIterator[Listed[Content]]:
    """A list, page by page. Away when it is garbage or has more than `most` objects or bytes; Gone when it took too
    long."""
    parameters, token, count, size = query.parameters | {"limit": str(PAGE)}, "", 0, 0
    while True:
        path = resource.path(query.namespace)
        body = await access.get(path, parameters | ({"continue": token} if token else {}))
        assert body is not None
        size += len(body)
        if size > most_bytes:
            raise Away(f"more than {most_bytes:.0f} bytes of objects at {path}")
        page = decoded(resource.page, body, path)
        if page.kind != resource.list_kind:
            raise Away(f"the answer to {path} is {page.kind[:60]!r}, and not {resource.list_kind!r}")
        count += len(page.items or ())
        if count > most:
            raise Away(f"more than {most} objects at {path}")
        yield page
        token = page.metadata.continue_
        if not token:
            return


Decoded = TypeVar("Decoded")


def decoded(decoder: "msgspec.json.Decoder[Decoded]", content: bytes | msgspec.Raw, path: str) -> Decoded:
    """What the answer to path says; Away when it is not what it should be."""
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Away(f"the answer to {path} cannot be read: {error}") from error
