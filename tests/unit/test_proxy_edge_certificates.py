"""What is decided of a caller outside the mesh without a handshake."""

import ssl

import pytest

from proxy.edge import lapsed

UNTIL = "Jan  5 09:34:43 2030 GMT"


@pytest.mark.parametrize(
    ("certificate", "after_s", "is_lapsed"),
    [({"notAfter": UNTIL}, -1.0, False), ({"notAfter": UNTIL}, 1.0, True), ({}, 1.0, False), (None, 1.0, False)],
)
def test_a_certificate_lapses_when_its_time_is_over(
    certificate: dict[str, str] | None, after_s: float, is_lapsed: bool
) -> None:
    assert lapsed(certificate, ssl.cert_time_to_seconds(UNTIL) + after_s) is is_lapsed
