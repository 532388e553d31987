"""What the CA's keys are encrypted with on disk, when they are: from a file, or from systemd's credentials.

    meshd ca serve --passphrase-file FILE
    LoadCredentialEncrypted=meshd-ca-passphrase          in the unit; then no option is needed

It is read once, at the start. An issuer that is renewed is written with the same one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meshd.api.problems import Problem
from meshd.ca import files

CREDENTIAL: Final = "meshd-ca-passphrase"

LEAST_BYTES: Final = 12


def read(file: Path | None, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase, without the line end after it; None when there is none to be had. Problem when it is too short to
    be one, cannot be read, or others can."""
    if file is not None:
        found = files.read_secret(file, "a passphrase")
    else:
        file = Path(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent"), CREDENTIAL)
        if not file.exists():
            return None
        found = files.read(file)  # systemd's own, whose access it sees to
    passphrase = found.rstrip(b"\r\n")
    if len(passphrase) < LEAST_BYTES:
        raise Problem(f"{file}: the passphrase there has {len(passphrase)} bytes, and {LEAST_BYTES} is the least")
    return passphrase
