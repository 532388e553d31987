"""HTTP/1.1 through one proxy, in plain text on both sides, connections kept alive on both sides.

Every contender has one worker, a pool of connections to the origin, no log of requests, and the counters that it has by
default: meshd its per-edge metrics and latency histogram, Envoy its stats, HAProxy and nginx their few.
"""

from bench.contenders import ENVOY, HAPROXY, MESHD, NGINX
from bench.nginx import http_section, main_section
from bench.scenario import Contender, Scenario, Wiring


def meshd(wiring: Wiring) -> str:
    return f"""\
trustDomain: bench.example
workloads:
  - name: web
    upstreams: [{{service: origin, listen: "127.0.0.1:{wiring.listen}", protocol: http}}]
services:
  - name: origin
    port: 80
    endpoints: [{{address: 127.0.0.1, port: {wiring.origin}}}]
"""


def envoy(wiring: Wiring) -> str:
    address = "{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return f"""\
static_resources:
  listeners:
    - name: http
      address: {address.format(port=wiring.listen)}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": {manager}
                stat_prefix: http
                codec_type: HTTP1
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": {router}}}
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]
  clusters:
    - name: origin
      type: STATIC
      load_assignment:
        cluster_name: origin
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address.format(port=wiring.origin)}}}}}]}}]
"""


def haproxy(wiring: Wiring) -> str:
    return f"""\
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  http-reuse always
  timeout client 600s
  timeout server 600s
  timeout connect 5s
frontend http
  bind 127.0.0.1:{wiring.listen}
  default_backend origin
backend origin
  server origin 127.0.0.1:{wiring.origin}
"""


def nginx(wiring: Wiring) -> str:
    server = f"""\
  upstream origin {{
    server 127.0.0.1:{wiring.origin};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{wiring.listen} backlog=1024;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}"""
    return main_section() + http_section(server)


SCENARIO = Scenario(
    name="http1",
    title="HTTP/1.1, one hop",
    contenders=(
        Contender(MESHD, meshd),
        Contender(ENVOY, envoy),
        Contender(HAPROXY, haproxy),
        Contender(NGINX, nginx),
    ),
    goals={"envoy": 1.5},
    rss_idle_goal_mb=35.0,
)
