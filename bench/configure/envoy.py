"""Envoy's configuration, in pieces: listeners, filters, clusters and TLS contexts, put together by `bootstrap`.

As its documentation has it for production: one worker, no hot restart, no access log, statistics and admin on. What is
not said here is as Envoy has it by default, HTTP/2's windows too.

TLS between two Envoys is TLS 1.3 with certificates of both sides, each checked for its SPIFFE ID, X25519 and no
session resumption, as it is between two of meshd's. The cipher is each library's choice: BoringSSL takes AES-128-GCM,
and lets nobody choose otherwise, where meshd's OpenSSL takes AES-256-GCM.
"""

import json
from typing import Any

from bench.scenario import Wiring
from tests.support.certificates import identity

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_TLS = f"{_TYPE}.transport_sockets.tls.v3"


def bootstrap(admin: int, listener: Json, *clusters: Json) -> str:
    """A configuration file: YAML, of which JSON is a part."""
    return json.dumps(
        {
            "admin": {"address": _address(admin)},
            "static_resources": {"listeners": [listener], "clusters": list(clusters)},
        },
        indent=1,
    )


def listener(port: int, filter_: Json, tls: Json | None = None) -> Json:
    """A listener with one filter."""
    chain: Json = {"filters": [filter_]}
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": "in", "address": _address(port), "filter_chains": [chain]}


def http(codec: str = "AUTO") -> Json:
    """The filter that speaks HTTP and sends everything to the cluster `origin`."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _HTTP,
            "stat_prefix": "http",
            "codec_type": codec,
            "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        },
    }


def tcp() -> Json:
    """The filter that relays bytes to the cluster `origin`."""
    proxy = f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy"
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": proxy, "stat_prefix": "tcp", "cluster": "origin"},
    }


def cluster(port: int, *, h2: bool = False, tls: Json | None = None) -> Json:
    """The cluster `origin`: one endpoint, spoken to by HTTP/1.1 or HTTP/2."""
    made: Json = {
        "name": "origin",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
    if h2:
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        made["typed_extension_protocol_options"] = {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    if tls is not None:
        made["transport_socket"] = tls
    return made


def terminate(wiring: Wiring, *alpn: str) -> Json:
    """TLS on a listener for clients that have no certificate, 1.2 or 1.3."""
    common = {"alpn_protocols": list(alpn), "tls_certificates": [_certificate(wiring, "api")]}
    return _socket("DownstreamTlsContext", {"common_tls_context": common})


def mutual_in(wiring: Wiring, *alpn: str) -> Json:
    """TLS on the listener of the second proxy, for the first."""
    return _socket(
        "DownstreamTlsContext",
        {
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": _common(wiring, "api", "web", alpn),
        },
    )


def mutual_out(wiring: Wiring, *alpn: str) -> Json:
    """TLS of the first proxy's cluster, to the second."""
    return _socket(
        "UpstreamTlsContext", {"max_session_keys": 0, "common_tls_context": _common(wiring, "web", "api", alpn)}
    )


def _socket(kind: str, context: Json) -> Json:
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{_TLS}.{kind}", **context}}


def _common(wiring: Wiring, own: str, peer: str, alpn: tuple[str, ...]) -> Json:
    return {
        "alpn_protocols": list(alpn),
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "tls_certificates": [_certificate(wiring, own)],
        "validation_context": {
            "trusted_ca": _file(wiring, "bundle.pem"),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": identity(peer)}}],
        },
    }


def _certificate(wiring: Wiring, name: str) -> Json:
    return {"certificate_chain": _file(wiring, f"{name}.pem"), "private_key": _file(wiring, f"{name}.key")}


def _file(wiring: Wiring, name: str) -> Json:
    return {"filename": str(wiring.directory / name)}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
