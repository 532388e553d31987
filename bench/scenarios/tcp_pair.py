"""Opaque bytes through two proxies with mutual TLS between them."""

from bench.configure import envoy
from bench.configure.meshd import inbound, outbound
from bench.contenders import ENVOY, MESHD
from bench.origins import pour
from bench.scenario import Claim, Contender, Scenario, Wiring
from bench.scenarios.tcp import CASES, GIGABITS


def _first(wiring: Wiring) -> str:
    second = envoy.cluster(wiring.between, tls=envoy.mutual_out(wiring))
    return envoy.bootstrap(wiring.admin[0], envoy.listener(wiring.listen, envoy.tcp()), second)


def _second(wiring: Wiring) -> str:
    listener = envoy.listener(wiring.between, envoy.tcp(), tls=envoy.mutual_in(wiring))
    return envoy.bootstrap(wiring.admin[1], listener, envoy.cluster(wiring.origin))


MESHD_TCP_PAIR = Contender(
    MESHD,
    (lambda wiring: outbound(wiring, "tcp"), lambda wiring: inbound(wiring, "tcp")),
    claims=(
        Claim(0, r'^tcp_open_total\{.*server_id="spiffe://.*tls="true"'),
        Claim(1, r'^tcp_open_total\{.*client_id="spiffe://.*tls="true"'),
    ),
)
ENVOY_TCP_PAIR = Contender(
    ENVOY,
    (_first, _second),
    claims=(
        Claim(0, r"^cluster\.origin\.ssl\.versions\.TLSv1\.3: "),
        Claim(0, r"^cluster\.origin\.ssl\.curves\.X25519: "),
        Claim(1, r"^listener\.127\.0\.0\.1_\d+\.ssl\.handshake: "),
    ),
)

SCENARIO = Scenario(
    name="tcp-pair",
    title="TCP through two proxies with mutual TLS between them",
    about="Both proxies of a pair are on the one core; bytes from the origin, as fast as they are read.",
    origin=pour.origin(),
    contenders=(MESHD_TCP_PAIR, ENVOY_TCP_PAIR),
    cases=CASES,
    unit=GIGABITS,
)
