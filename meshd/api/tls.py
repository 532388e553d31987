"""What all sides of TLS do here: show a certificate that is in no file, for keys are in memory alone."""

import os
import ssl
from collections.abc import Callable


def present(context: ssl.SSLContext, pem: bytes, passphrase: Callable[[], bytes] | None = None) -> None:
    """Have context show the chain in pem, which holds its key as well: `load_cert_chain` wants a path, so it gets a
    memfd's. `passphrase` is asked where the key is encrypted; without it OpenSSL asks the terminal. ssl.SSLError."""
    memory = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}", password=passphrase)
    finally:
        os.close(memory)
