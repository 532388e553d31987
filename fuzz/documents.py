"""What whoever may write to a mesh's configuration can put before every agent: a Consul key, an object of a cluster."""

from typing import Final

import msgspec

from discovery.documents import document_of, documents_in
from meshd.api.loading import ConfigurationError

ORIGIN: Final = "consul:meshd/config/web"

TEXTS: Final = [
    b"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: web}\nspec: {port: 80, timeouts: {request: 5s}}\n",
    b"apiVersion: meshd.io/v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n"
    b"spec:\n  port: 80\n  endpoints: [{address: 192.0.2.5, port: 8080, workload: api, weight: 2}]\n",
    b"---\napiVersion: meshd.io/v1\nkind: Workload\nmetadata: {name: web}\nspec:\n  ports: [{port: 8080}]\n"
    b'  upstreams: [{service: api, listen: "127.0.0.1:9001"}]\n  selectors: [{unit: web.service, user: "1000"}]\n'
    b"  capture: {skipOutboundPorts: [25], skipOutboundCidrs: [192.0.2.0/24]}\n---\n",
    b'{"apiVersion": "meshd.io/v1", "kind": "Service", "metadata": {"name": "w"}, "spec": {"port": 1}}',
    b"a: &a [1]\nb: [*a, *a]\n",
]


def document(data: bytes) -> None:
    """Good as a whole, and then what it says reads the same once more; or refused with findings that name the text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        found, findings = documents_in(text, ORIGIN), None
    except ConfigurationError as error:
        found, findings = (), error.findings
    assert findings is None or (findings and all(each.file == ORIGIN and each.message for each in findings))
    for each in found:
        again = document_of(msgspec.to_builtins(each.document), ORIGIN)
        assert [other.document for other in again] == [each.document]
