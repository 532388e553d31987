"""How applications may write a service's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.names import Authority, mesh_name
from meshd.api.names import InvalidName, is_label

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("web", ("web", "shop"), None),
        ("web:8080", ("web", "shop"), 8080),
        ("web.", ("web", "shop"), None),
        ("WEB.Prod", ("web", "prod"), None),
        ("web.mesh", ("web", "shop"), None),
        ("web.prod.mesh:1", ("web", "prod"), 1),
        ("web.prod.svc", ("web", "prod"), None),
        ("web.prod.svc.cluster.local.:65535", ("web", "prod"), 65535),
        ("web.svc", ("web", "svc"), None),
        ("mesh", ("mesh", "shop"), None),
        ("web.prod.eu", None, None),
        ("web.shop.example", None, None),
        ("web.svc.cluster.local", None, None),
        ("a.b.c.svc.cluster.local", None, None),
        ("web_1", None, None),
        ("-web", None, None),
        ("web..", None, None),
        ("192.0.2.5:80", None, 80),
        ("[2001:DB8::5]:80", None, 80),
    ],
)
def test_forms(text: str, name: tuple[str, str] | None, port: int | None) -> None:
    authority = Authority.parse(text, "shop")
    assert mesh_name(authority) == name
    assert authority.port == port


@pytest.mark.parametrize(
    "text",
    ["", ":80", "web:", "web:0", "web:65536", "web:-1", "web:8o", "web:80:80", "a@b", "http://web", "we b",
     "2001:db8::5", "[web]:80", "[::1", "[]:80", "web\n", "w" * 300],
)  # fmt: skip
def test_not_an_authority(text: str) -> None:
    with pytest.raises(InvalidName):
        Authority.parse(text, "shop")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.5", "192.0.2.5"),
        ("[2001:0db8::0005]:1", "2001:db8::5"),
        ("[::ffff:192.0.2.5]:80", "192.0.2.5"),  # where the kernel goes
        ("[::FFFF:c000:205]", "192.0.2.5"),
        ("web", ""),
        ("192.0.2", ""),
        ("192.0.2.05", ""),
    ],
)
def test_addresses_have_one_spelling(text: str, address: str) -> None:
    assert Authority.parse(text, "shop").address == address


@given(LABELS, LABELS, LABELS, st.none() | st.integers(1, 65535))
def test_every_form_of_a_name_means_the_same(name: str, namespace: str, caller: str, port: int | None) -> None:
    forms = [f"{name}.{namespace}{suffix}" for suffix in (".mesh", ".svc", ".svc.cluster.local")]
    for form in forms:
        text = form.upper() if port is None else f"{form}.:{port}"
        authority = Authority.parse(text, caller)
        assert (mesh_name(authority), authority.port) == ((name, namespace), port)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_understood(text: str) -> None:
    try:
        name = mesh_name(Authority.parse(text, "shop"))
    except InvalidName:
        return
    assert name is None or all(map(is_label, name))
