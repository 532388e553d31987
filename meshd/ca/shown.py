"""TLS of a listener whose certificate is replaced while it serves: handshakes begun from then on show the new one.

For the servers behind `meshd.ca.door`. What a handshake asks of clients is settled before its server name is read, so
the context that it begins with and the one that it goes on with are made alike.
"""

import ssl

from meshd.api.tls import present


class Shown:
    """`listener` is the context for the listener: handshakes fail before `show`. With `clients` these may show
    certificates, and need not; `alpn` is the protocol that is spoken, if one is to be agreed on."""

    def __init__(self, *, clients: bool = False, alpn: str = "") -> None:
        self._clients, self._alpn = clients, alpn
        self._current: ssl.SSLContext | None = None
        self.listener = self._context()
        self.listener.sni_callback = self._choose

    @property
    def is_there(self) -> bool:
        """Whether there is something to show."""
        return self._current is not None

    def show(self, pem: bytes, roots_pem: str = "") -> None:
        """Show the key and chain in pem. Where clients show certificates, they are believed below these roots."""
        made = self._context()
        if self._clients:
            made.load_verify_locations(cadata=roots_pem)
        present(made, pem)
        self._current = made

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None

    def _context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        if self._clients:
            made.num_tickets = 0  # each connection shows its certificate anew
            made.verify_mode = ssl.CERT_OPTIONAL  # at first contact there is none
            made.verify_flags |= ssl.VERIFY_X509_STRICT
        if self._alpn:
            made.set_alpn_protocols([self._alpn])
        return made
