"""The first word with a CA that nothing is known of yet but what a join token says: the hash of its root's key.

The server is asked for its trust bundle over TLS that cannot be verified: whoever answers may be anyone. Of what comes
only a root whose key has that hash, and that is signed with that key, is taken; every other certificate in the answer
is nobody's word. With that root the CA is then called as ever (`meshd.ca.client`), and not before that is anything
said that is secret.
"""

import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.calls import call
from meshd.ca.tokens import PrintedToken
from meshd.ca.wire import Bundle


async def root_of(url: str, token: PrintedToken) -> x509.Certificate:
    """The root of the CA at url. Problem when the CA there is not the token's; Refusal or Unreachable when it cannot be
    asked."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    bundle = await call(tls, "GET", url, "/v1/bundle", Bundle, {})
    root = find_root(bundle.bundle_pem, token.root_hash)
    if root is None:
        raise Problem(
            f"{url}: not the CA that the join token is of: it shows another root. Either the URL or the token is of "
            "another mesh, or something between here and the CA answers in its place"
        )
    return root


def find_root(bundle_pem: str, key_hash: bytes) -> x509.Certificate | None:
    """The root in the bundle that its own key has signed and whose key has that hash; None when there is none."""
    try:
        found = x509.load_pem_x509_certificates(bundle_pem.encode("utf-8", "replace"))
    except ValueError:
        return None
    for root in found:
        try:
            if certificates.key_hash(root.public_key()) == key_hash:
                root.verify_directly_issued_by(root)
                return root
        except (ValueError, TypeError, InvalidSignature):
            continue
    return None
