"""The CA daemon's own settings, `/etc/meshd/ca.yaml`, as types. There need be none: then all is as it says here.

    limits: {nodePerSecond: 50}

Every field has a type, a default, a unit where it is a quantity, and a sentence; `docs/settings.md` is made from them.
"""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from meshd.api.loading import ConfigurationError, Finding, convert, parse, read_text
from meshd.api.names import Address, InvalidName, check_label

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
            description="Agents that wait for news of denials at once, and hear it within a second or so. Each takes "
            "some 54 KB of the CA's memory; those above it ask every so often: each second while they are 200, every "
            "10 seconds when they are 2,000, and every 20 at the least.",
        ),
    ] = 128


MOUNTED: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A cluster whose pods may have the identity of their service account."""

    url: Annotated[
        str,
        Meta(description="Its API server, as in `https://kubernetes.default.svc`; empty for no cluster."),
    ] = ""
    ca: Annotated[str, Meta(description="File with the certificates (PEM) that the API server's must chain to.")] = (
        f"{MOUNTED}/ca.crt"
    )
    token_file: Annotated[
        str,
        Meta(description="File with this CA's own token in that cluster, for which it may review others' tokens."),
    ] = f"{MOUNTED}/token"

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


class ConsulSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A Consul whose KV store several CAs share."""

    address: Annotated[
        str,
        Meta(
            description="Its HTTP API, best that of the agent on this host, as in `http://127.0.0.1:8500`; https "
            "elsewhere. Empty for none: then the store is `ca.db` in the CA's directory."
        ),
    ] = ""
    token: Annotated[str, Meta(description="ACL token; better in a file (`tokenFile`).")] = ""
    token_file: Annotated[
        str, Meta(description="File with the ACL token, not readable by everyone; read for each call.")
    ] = ""
    ca: Annotated[str, Meta(description="File with the certificates (PEM) that Consul's must chain to; for https.")] = (
        ""
    )
    certificate: Annotated[str, Meta(description="File with this CA's own certificate for Consul (PEM).")] = ""
    key: Annotated[str, Meta(description="File with its private key (PEM).")] = ""
    datacenter: Annotated[
        str, Meta(description="The datacenter whose KV store it is; empty for the one of that agent.")
    ] = ""
    prefix: Annotated[
        str, Meta(description="What all keys begin with: one for each trust domain.", min_length=1, max_length=200)
    ] = "meshd/ca"

    def __repr__(self) -> str:
        return f"ConsulSettings({self.address})"  # the token is for no message

    def __post_init__(self) -> None:
        if self.address:
            _check_consul(self.address, self.ca)
        if self.token and self.token_file:
            raise ValueError("token and tokenFile do not go together")
        if not (self.token + self.token_file).isprintable():
            raise ValueError("token and tokenFile are each one line")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        if not all(_KEY.fullmatch(part) for part in self.prefix.split("/")):
            raise ValueError(
                f"prefix: {self.prefix!r} is not letters, digits, dots, underscores and dashes between slashes, as in "
                "meshd/ca"
            )


_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+")


def _check_consul(address: str, ca: str) -> None:
    """ValueError when what is sent there could be read, or answered, by others than Consul."""
    url = urlsplit(address)
    try:
        is_local = url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback
    except ValueError:
        is_local = False
    if url.scheme not in {"http", "https"} or not url.hostname or url.port is None or url.path not in {"", "/"}:
        raise ValueError(f"address: {address!r} is not http://HOST:PORT or https://HOST:PORT")
    if url.scheme == "http" and not is_local:
        raise ValueError(f"address: {address!r} is not on this host, so it has to be https")
    if url.scheme == "https" and not ca:
        raise ValueError("ca: must be given with https, to know Consul by")


class ObjectSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A cluster in which several CAs share custom resources (`carecords.meshd.io`)."""

    url: Annotated[
        str,
        Meta(description="Its API server, as in `https://kubernetes.default.svc`; empty for none."),
    ] = ""
    ca: Annotated[str, Meta(description="File with the certificates (PEM) that the API server's must chain to.")] = (
        f"{MOUNTED}/ca.crt"
    )
    token_file: Annotated[
        str, Meta(description="File with this CA's own token in that cluster; read for each call.")
    ] = f"{MOUNTED}/token"
    namespace: Annotated[
        str, Meta(description="Where the records are: one for each trust domain. When empty, the pod's own.")
    ] = ""

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith("https://"):
            raise ValueError(f"url: {self.url!r} is not an https URL, as in https://kubernetes.default.svc")
        if self.namespace:
            check_label(self.namespace, "namespace")


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where the CA keeps what it must not forget."""

    consul: Annotated[ConsulSettings, Meta(description="A Consul, for CAs on several hosts.")] = ConsulSettings()
    kubernetes: Annotated[ObjectSettings, Meta(description="A cluster, for several CAs in its pods.")] = (
        ObjectSettings()
    )

    def __post_init__(self) -> None:
        if self.consul.address and self.kubernetes.url:
            raise ValueError("there is one store: consul and kubernetes do not go together")

    @property
    def is_shared(self) -> bool:
        """Whether several CAs may have it."""
        return bool(self.consul.address or self.kubernetes.url)


class CaDaemonSettings(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole file."""

    limits: Annotated[LimitSettings, Meta(description="How often one may ask.")] = LimitSettings()
    issuer: Annotated[ExternalIssuer, Meta(description="An issuer that is made elsewhere.")] = ExternalIssuer()
    kubernetes: Annotated[KubernetesSettings, Meta(description="A cluster whose pods ask this CA.")] = (
        KubernetesSettings()
    )
    store: Annotated[
        StoreSettings, Meta(description="Where the CA keeps what it must not forget; every command of it has to know.")
    ] = StoreSettings()
    admin: Annotated[
        str,
        Meta(
            description="HOST:PORT of `/metrics`, `/ready` and `/live`, in plain HTTP; empty for none. Of 0.0.0.0, "
            "by IPv6 too."
        ),
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
