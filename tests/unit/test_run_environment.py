"""What a meshed command finds in its environment."""

import pytest

from meshd.api.documents import Upstream
from meshd.api.names import Address
from meshd.run.environment import command_environment, upstream_variable

IDENTITY = "spiffe://prod.example/ns/shop/sa/web"


def environment(inherited: dict[str, str], *upstreams: Upstream) -> dict[str, str]:
    return command_environment(inherited, IDENTITY, Address("127.0.0.1", 4140), Address("::1", 4191), upstreams)


def test_all_that_is_promised_is_there() -> None:
    assert environment(
        {"PATH": "/bin"}, Upstream("api", "127.0.0.1:9001"), Upstream("db.shop:5432", "127.0.0.1:9")
    ) == {
        "PATH": "/bin",
        "http_proxy": "http://127.0.0.1:4140",
        "HTTP_PROXY": "http://127.0.0.1:4140",
        "no_proxy": "localhost,127.0.0.1,::1",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "MESHD_WORKLOAD": "shop/web",
        "MESHD_IDENTITY": IDENTITY,
        "MESHD_TRUST_DOMAIN": "prod.example",
        "MESHD_OUTBOUND": "127.0.0.1:4140",
        "MESHD_ADMIN": "[::1]:4191",
        "MESHD_UPSTREAM_API": "127.0.0.1:9001",
        "MESHD_UPSTREAM_DB_SHOP_5432": "127.0.0.1:9",
    }


@pytest.mark.parametrize(
    ("inherited", "no_proxy"),
    [
        ({"no_proxy": "a.example, .b"}, "a.example,.b,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a", "NO_PROXY": "a,b"}, "a,b,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "localhost,,"}, "localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://proxy.example:3128"}, "localhost,127.0.0.1,::1"),
    ],
)
def test_no_proxy_is_added_to_in_both_spellings(inherited: dict[str, str], no_proxy: str) -> None:
    made = environment(inherited)
    assert made["no_proxy"] == made["NO_PROXY"] == no_proxy
    assert made["http_proxy"] == "http://127.0.0.1:4140"


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("api", "MESHD_UPSTREAM_API"),
        ("api-v2.shop", "MESHD_UPSTREAM_API_V2_SHOP"),
        ("a:80", "MESHD_UPSTREAM_A_80"),
        ("straße", "MESHD_UPSTREAM_STRASSE"),
    ],
)
def test_an_upstreams_variable(service: str, variable: str) -> None:
    assert upstream_variable(service) == variable
