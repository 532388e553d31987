"""TLS of a listener whose certificate is replaced while it serves, by whole handshakes in memory."""

import ssl

import pytest

from meshd.api.tls import present
from meshd.ca import certificates
from meshd.ca.certificates import KeyPair, Life
from meshd.ca.shown import Shown
from tests.support.certificates import shaken

LIFE = Life.starting(1.7e9, 20 * 365 * 86400.0)
ROOT, OTHER = (certificates.make_root(f"{name}.example", LIFE) for name in ("mesh", "other"))


def both(pair: KeyPair) -> bytes:
    return certificates.key_pem(pair.key) + certificates.pem(pair.certificate)


def server(root: KeyPair = ROOT) -> KeyPair:
    return certificates.make_server(["ca.example"], root, LIFE)


def own(root: KeyPair = ROOT) -> KeyPair:
    """What a client shows."""
    key = certificates.new_key()
    domain = certificates.trust_domain_in(root.certificate)
    return KeyPair(certificates.make_leaf(f"spiffe://{domain}/node/host", key.public_key(), root, LIFE), key)


def client(shows: KeyPair | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=certificates.pem(ROOT.certificate).decode())
    made.set_alpn_protocols(["one", "two"])
    if shows is not None:
        present(made, both(shows))
    return made


def handshake(context: ssl.SSLContext, listener: ssl.SSLContext) -> tuple[int, bool, str | None]:
    """The serial number of the server's certificate, whether it saw one of the client, and the protocol. ssl.SSLError
    when one side refuses the other."""
    here, there = shaken(context, listener, "ca.example")
    seen = here.getpeercert()
    assert seen
    return int(str(seen["serialNumber"]), 16), bool(there.getpeercert()), there.selected_alpn_protocol()


def test_nothing_is_served_before_there_is_something_to_show_and_then_the_newest() -> None:
    shown = Shown()
    before = shown.is_there
    assert not before
    with pytest.raises(ssl.SSLError):
        handshake(client(), shown.listener)
    for pair in (server(), server()):
        shown.show(both(pair))
        assert shown.is_there
        assert handshake(client(), shown.listener) == (pair.certificate.serial_number, False, None)


def test_clients_may_show_certificates_below_the_roots_and_need_not() -> None:
    shown, pair = Shown(clients=True, alpn="two"), server()
    shown.show(both(pair), certificates.pem(ROOT.certificate).decode())
    serial = pair.certificate.serial_number
    assert handshake(client(), shown.listener) == (serial, False, "two")
    assert handshake(client(own()), shown.listener) == (serial, True, "two")
    with pytest.raises(ssl.SSLError):
        handshake(client(own(OTHER)), shown.listener)
    shown.show(both(pair), certificates.pem(OTHER.certificate).decode())
    with pytest.raises(ssl.SSLError):
        handshake(client(own()), shown.listener)
    assert handshake(client(own(OTHER)), shown.listener) == (serial, True, "two")


def test_where_clients_show_certificates_there_are_roots() -> None:
    with pytest.raises(ValueError, match="mpty"):
        Shown(clients=True).show(both(server()))
