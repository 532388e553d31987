"""Whether this host's clock can be right.

Certificates are good between two times, so a clock that is far off makes every connection fail, each with a message of
its own. The trust bundle's roots say when now can be; what each new certificate says is `meshd.api.clocks`'s.
"""

from datetime import UTC, datetime

from cryptography import x509


class TrustPeriod:
    """When the roots of a trust bundle (PEM) are good; ValueError when it is none."""

    def __init__(self, bundle_pem: str) -> None:
        roots = x509.load_pem_x509_certificates(bundle_pem.encode())
        self._from = min(root.not_valid_before_utc for root in roots)
        self._until = max(root.not_valid_after_utc for root in roots)
        self._names = [f"{root.subject.rfc4514_string()} until {root.not_valid_after_utc:%Y-%m-%d}" for root in roots]

    @property
    def roots(self) -> int:
        """How many."""
        return len(self._names)

    def __str__(self) -> str:
        """Which roots, for the log."""
        return "; ".join(self._names)

    def trouble(self, now: float) -> str:
        """What is wrong with the time `now` (seconds since the epoch); empty when nothing is."""
        time = datetime.fromtimestamp(now, UTC)
        if time < self._from:
            return (
                f"the clock of this host says {time:%Y-%m-%d %H:%M} UTC, which is before the CA's root was made "
                f"({self._from:%Y-%m-%d %H:%M} UTC): set the clock"
            )
        if time > self._until:
            return (
                f"every root in the trust bundle has expired, the last at {self._until:%Y-%m-%d %H:%M} UTC (the clock "
                f"says {time:%Y-%m-%d %H:%M}): get the CA's new bundle, or set the clock"
            )
        return ""
