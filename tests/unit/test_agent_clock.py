"""A clock that cannot be right is said to be wrong."""

from datetime import timedelta

import pytest

from meshd.agent.clock import TrustPeriod
from meshd.api.clocks import clocks_apart
from meshd.api.control import Certificate
from tests.support.bundles import MADE, root


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-1, "says 2026-02-28 12:00 UTC, which is before the CA's root was made (2026-03-01 12:00 UTC): set the clock"),
        (0, ""),
        (25, ""),
        (31, "every root in the trust bundle has expired, the last at 2026-03-31 12:00 UTC"),
    ],
)
def test_the_roots_say_when_now_can_be(days: int, said: str) -> None:
    bundle = root(MADE, timedelta(days=10)) + root(MADE + timedelta(days=5), timedelta(days=25))
    found = TrustPeriod(bundle).trouble((MADE + timedelta(days=days)).timestamp())
    assert said in found
    assert bool(found) == bool(said)


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_bundle(text: str) -> None:
    with pytest.raises(ValueError, match=r"PEM|parsing"):
        TrustPeriod(text)


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(60, ""), (0, ""), (300, ""), (-1, "at least 1 s behind the CA's"), (301, "some 301 s ahead of the CA's")],
)
def test_a_new_certificate_says_what_the_ca_s_clock_says(ahead_s: float, said: str) -> None:
    found = clocks_apart(Certificate("", not_before=1e9, not_after=2e9), 1e9 + ahead_s)
    assert said in found
    assert bool(found) == bool(said)
