"""HTTP/1.1 through one proxy, in plain text on both sides, connections kept alive on both sides.

Every contender has one worker, a pool of connections to the origin, no log of requests, and the counters that it has by
default: meshd its per-edge metrics and latency histogram, Envoy its stats, HAProxy and nginx their few.
"""

from bench.configure import envoy
from bench.configure.meshd import one_hop
from bench.configure.nginx import http_section, main_section
from bench.contenders import ENVOY, HAPROXY, MESHD, NGINX
from bench.loads.wrk import Wrk
from bench.origins import nginx as origin
from bench.scenario import Case, Contender, Goal, Scenario, Wiring


def _envoy(wiring: Wiring) -> str:
    return envoy.bootstrap(
        wiring.admin[0], envoy.listener(wiring.listen, envoy.http("HTTP1")), envoy.cluster(wiring.origin)
    )


def _haproxy(wiring: Wiring) -> str:
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


def _nginx(wiring: Wiring) -> str:
    server = f"""\
  upstream origin {{
    server 127.0.0.1:{wiring.origin};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{wiring.listen} backlog=4096;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}"""
    return main_section() + http_section(server)


MESHD_HTTP1 = Contender(MESHD, (lambda wiring: one_hop(wiring, "http"),))
ENVOY_HTTP1 = Contender(ENVOY, (_envoy,))

SCENARIO = Scenario(
    name="http1",
    title="HTTP/1.1, one hop",
    about="Answers of 1,024 bytes.",
    origin=origin.origin(),
    contenders=(MESHD_HTTP1, ENVOY_HTTP1, Contender(HAPROXY, (_haproxy,)), Contender(NGINX, (_nginx,))),
    cases=(Case("32 connections", Wrk(connections=32), (Goal("envoy", 2.0), Goal("haproxy", 0.7))),),
)
