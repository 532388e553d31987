"""The CA daemon's own settings, `/etc/meshd/ca.yaml`, as types. There need be none: then all is as it says here.

    limits: {nodePerSecond: 50}

Every field has a type, a default, a unit where it is a quantity, and a sentence; `docs/settings.md` is made from them.
"""

from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from meshd.api.loading import ConfigurationError, Finding, convert, parse, read_text
from meshd.api.names import Address, InvalidName

SETTINGS_FILE: Final = "/etc/meshd/ca.yaml"


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How often one may ask; above it the answer is 429, with the time to wait in Retry-After."""

    node_per_second: Annotated[
        float, Meta(gt=0, description="Certificates per second for one node, in the long run.")
    ] = 20.0
    node_burst: Annotated[int, Meta(ge=1, description="As many at once, as when all workloads of a host start.")] = 500
    token_per_second: Annotated[
        float, Meta(gt=0, description="Attempts per second to join with one token, in the long run.")
    ] = 10.0
    token_burst: Annotated[int, Meta(ge=1, description="As many at once, as when many hosts boot together.")] = 200
    address_per_second: Annotated[
        float, Meta(gt=0, description="Certificates per second for one address with the shared token, in the long run.")
    ] = 100.0
    address_burst: Annotated[int, Meta(ge=1, description="As many at once.")] = 1000
    failure_per_second: Annotated[
        float, Meta(gt=0, description="Requests per second of one address that prove nothing, in the long run.")
    ] = 0.5
    failure_burst: Annotated[int, Meta(ge=1, description="As many at once.")] = 30
    waiting: Annotated[
        int,
        Meta(
            ge=0,
            description="Agents that wait for news of denials at once. Each takes some 60 KB of the CA's memory; those "
            "above it ask every 10 to 20 seconds instead.",
        ),
    ] = 2048


_MOUNTED: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A cluster whose pods may have the identity of their service account."""

    url: Annotated[
        str,
        Meta(description="Its API server, as in `https://kubernetes.default.svc`; empty for no cluster."),
    ] = ""
    ca: Annotated[str, Meta(description="File with the certificates (PEM) that the API server's must chain to.")] = (
        f"{_MOUNTED}/ca.crt"
    )
    token_file: Annotated[
        str,
        Meta(description="File with this CA's own token in that cluster, for which it may review others' tokens."),
    ] = f"{_MOUNTED}/token"

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith("https://"):
            raise ValueError(f"url: {self.url!r} is not an https URL, as in https://kubernetes.default.svc")


class ExternalIssuer(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An issuer that something else makes and renews; for a CA that was made with `meshd ca init --bundle`."""

    key: Annotated[
        str, Meta(description="File with its private key (PEM); when empty, `issuer.key` of the CA's own.")
    ] = ""
    chain: Annotated[
        str,
        Meta(
            description="File with its certificate and those above it (PEM), read again when it changes, with the key; "
            "when empty, `issuer.pem` beside the CA's own."
        ),
    ] = ""

    def __post_init__(self) -> None:
        if bool(self.key) != bool(self.chain):
            raise ValueError("key and chain go together")


class CaDaemonSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole file."""

    limits: Annotated[LimitSettings, Meta(description="How often one may ask.")] = LimitSettings()
    issuer: Annotated[ExternalIssuer, Meta(description="An issuer that is made elsewhere.")] = ExternalIssuer()
    kubernetes: Annotated[KubernetesSettings, Meta(description="A cluster whose pods ask this CA.")] = (
        KubernetesSettings()
    )
    admin: Annotated[
        str,
        Meta(description="HOST:PORT of `/metrics`, `/ready` and `/live`, in plain HTTP; empty for none."),
    ] = "127.0.0.1:4181"

    def __post_init__(self) -> None:
        try:
            self.admin_address  # noqa: B018 - that it can be read is all that is asked
        except InvalidName as error:
            raise ValueError(f"admin: {error}") from error

    @property
    def admin_address(self) -> Address | None:
        """Where the metrics are; None when they are not."""
        return Address.parse(self.admin) if self.admin else None


def load(file: Path) -> CaDaemonSettings:
    """The settings in file; the defaults when there is none at the usual place. ConfigurationError, with every finding,
    when they are not good."""
    if str(file) == SETTINGS_FILE and not file.exists():
        return CaDaemonSettings()
    found = list(parse(read_text(file), str(file)))
    if len(found) > 1:
        raise ConfigurationError([Finding(str(file), "settings are one document", "", label) for label, _ in found[1:]])
    settings: CaDaemonSettings = convert(found[0][1] if found else {}, CaDaemonSettings, str(file))
    return settings
