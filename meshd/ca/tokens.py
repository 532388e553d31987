"""The join token: one printable string by which a new host and its CA know each other.

    token    = "meshd-join-v1" "." id "." secret "." root
    id       = 10( base32 )      which token it is; not secret
    secret   = 43( base64url )   256 bits that only its holder has
    root     = 43( base64url )   SHA-256 of the public key (SubjectPublicKeyInfo) of the CA's root
    base32   = %x61-7A / "2"-"7"                       ; RFC 4648 section 6, in lower case
    base64url = ALPHA / DIGIT / "-" / "_"              ; RFC 4648 section 5, without padding

The `root` is why a host needs nothing else: who shows a chain to a root of that key is the CA, so not even the first
contact is with just anyone (`meshd.ca.first_contact`). Each token has one spelling; a cut one, one with a line end in
it, or with bits that stand for nothing is refused. What is valid is not known here: see `meshd.ca.records.JoinToken`.
"""

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

PREFIX: Final = "meshd-join-v1."
MAX_CHARACTERS: Final = 256
"""More than any token has: what is longer is not looked at."""

_TOKEN: Final = re.compile(r"meshd-join-v1\.([a-z2-7]{10})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})", re.ASCII)
_OTHER_VERSION: Final = re.compile(r"meshd-join-v[0-9]{1,4}\.")
_SECRET_BYTES: Final = 32


class MalformedToken(ValueError):
    """What is no join token; the message says in what way, and nothing of what it holds."""


@dataclass(frozen=True, slots=True)
class PrintedToken:
    """A join token as its holder has it. Its repr is without the secret."""

    id: str
    secret: bytes = field(repr=False)
    root_hash: bytes
    """Of the root's public key."""

    @classmethod
    def new(cls, root_hash: bytes) -> Self:
        return cls(new_id(), secrets.token_bytes(_SECRET_BYTES), root_hash)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that text spells; MalformedToken when it spells none."""
        if len(text) > MAX_CHARACTERS:
            raise MalformedToken(f"it is longer than {MAX_CHARACTERS} characters")
        found = _TOKEN.fullmatch(text)
        if found is None:
            other = _OTHER_VERSION.match(text)
            if other is not None and other[0] != PREFIX:
                raise MalformedToken(f"it is of another version of meshd ({other[0][:-1]}); this one makes {PREFIX}…")
            if text.startswith(PREFIX):
                raise MalformedToken("a part of it is missing or changed: copy it whole")
            raise MalformedToken(f"a join token begins with {PREFIX}")
        return cls(found[1], _decoded(found[2]), _decoded(found[3]))

    def text(self) -> str:
        """To be given to who is to join: it holds the secret."""
        return f"{PREFIX}{self.id}.{_encoded(self.secret)}.{_encoded(self.root_hash)}"


def new_id() -> str:
    """50 random bits, for people to type: of tokens and of entries."""
    return base64.b32encode(secrets.token_bytes(7)).decode().lower()[:10]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """32 bytes; MalformedToken when text is not the one spelling of any. (43 characters carry 258 bits.)"""
    try:
        data = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise MalformedToken("a part of it is changed: copy it whole") from error
    if _encoded(data) != text:
        raise MalformedToken("a part of it is changed: copy it whole")
    return data
