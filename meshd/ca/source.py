"""The seam between those who need certificates and whatever signs them.

`meshd.ca.local` signs in the same process, `meshd.ca.client` has a CA sign over HTTPS; one suite tests both. An error
says whether to ask again: what was refused is refused the next time too, unless what is asked for changes.
"""

from typing import Protocol

from meshd.api.control import Certificate
from meshd.api.names import Identity
from meshd.ca.wire import Bundle, Renewal, Token


class Refusal(Exception):
    """The CA does not sign this. The message says why, for the one who asked; `detail` is for the CA's log alone."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Forbidden(Refusal):
    """What was asked for is not wrong in itself, but not for this requester, or not of this CA."""


class NotAuthenticated(Refusal):
    """There is no proof of who asks, or one that is not good: nothing is signed for this requester."""


class TooLarge(Refusal):
    """What was asked takes more bytes than anything that could be asked."""


class Unreachable(Exception):
    """The CA cannot be asked, or cannot sign now; the message says what is the matter. Asking later may succeed."""


class Unable(Unreachable):
    """The CA answers, and cannot do this now."""


class CertificateSource(Protocol):
    """Signs for the identities of one trust domain."""

    async def sign(self, csr_pem: str, identity: Identity) -> Certificate:
        """A certificate of `identity` for the key that signed the CSR, stored by the CA before it is returned.
        Refusal when it must not be had, Unreachable when it cannot be had now; no other error."""

    async def jwt(self, identity: Identity, audiences: tuple[str, ...]) -> Token:
        """A JWT-SVID of `identity` for these audiences; errors as of `sign`."""

    async def news(self, after: int, oldest: float = 0.0) -> Bundle:
        """The trust bundle and what is denied: once its sequence number is another than `after`, or after some seconds.
        The CA is told by it that this host has the bundle of that number, and that its oldest certificate in use is
        good from then on (seconds since the epoch, 0: unknown). Errors as of `sign`."""

    def trust(self, bundle_pem: str, renewal: Renewal | None = None) -> None:
        """Believe no CA but one that these roots vouch for from now on, and renew what this host has itself, where it
        is older than renewal says. Misuse when there is no certificate in the bundle."""

    def begun(self) -> float:
        """When the certificate begins that this host shows the CA (seconds since the epoch); inf when it has none."""

    async def health(self) -> None:
        """Returns when the CA answers and would look at a request; Refusal or Unreachable when not."""
