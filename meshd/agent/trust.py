"""What this host believes, as it heard it last from the CA: the trust bundle, what is denied all the same, and the keys
of JWT-SVIDs. Kept in a file, for an agent that starts while the CA is away, or after a root that it was set up with has
left the mesh.

The operator's bundle (`ca.bundle` in the settings) is where it begins. From then on each bundle is vouched for by the
one before, since it came over TLS that the one before verified; so the file names the operator's bundle that it goes
back to, and another one there begins anew. What is denied outlasts even that: forgetting it would make what is revoked
good again, so a file that is there and cannot be read is an error, not an empty list.
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from meshd.api.problems import Problem
from meshd.ca import files
from meshd.ca.wire import Bundle, Denial, Jwk, Renewal

FILE_NAME: Final = "trust.json"


class Trust(msgspec.Struct, frozen=True):
    """`sequence` is the CA's number for it, 0 before it was heard from, and never goes back. `bundle_pem` is empty
    while the operator's own is in force, whose hash is `pinned`."""

    sequence: int = 0
    bundle_pem: str = ""
    denied: tuple[Denial, ...] = ()
    pinned: str = ""
    renewal: Renewal | None = None
    jwt_keys: tuple[Jwk, ...] = ()

    def followed_by(self, news: Bundle) -> "Trust":
        """What there is to believe after news."""
        return Trust(news.sequence, news.bundle_pem, news.denied, self.pinned, news.renewal, news.jwt_keys)

    def since(self, pinned_pem: str) -> "Trust":
        """The same, where it goes back to the operator's bundle pinned_pem; else only what is denied is left of it."""
        pinned = hashlib.sha256(pinned_pem.encode()).hexdigest()
        return self if self.pinned == pinned else Trust(denied=self.denied, pinned=pinned)

    @property
    def denied_peers(self) -> tuple[str, ...]:
        """What proxies are to look for in the certificates of their peers. A node's own certificate is good for no
        traffic, and those of its workloads are here by their serial numbers."""
        return tuple(each.value for each in self.denied if each.kind != "node")


class TrustFile:
    """Keeps it in `file`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self) -> Trust:
        """What was kept; Problem when it is there and cannot be read."""
        if not self._file.exists():
            return Trust()
        try:
            return msgspec.json.decode(files.read(self._file), type=Trust)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(
                f"{self._file}: what the CA said of roots and denials cannot be read: {error}: remove the file while "
                "the CA can be reached"
            ) from error

    def keep(self, trust: Trust) -> None:
        """Problem when it cannot be written."""
        files.write(self._file, msgspec.json.encode(trust), owner_of=self._file.parent)
