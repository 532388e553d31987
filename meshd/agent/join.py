"""`meshd join`: this host becomes a node of a mesh, by a token and the URL of its CA.

1. Where the settings file says otherwise than the command, that is said before anything is asked of anyone.
2. The CA's root is had by first contact (`meshd.ca.first_contact`); from then on the CA is verified.
3. The clocks are compared, since certificates say times, and a token should not be used up for nothing.
4. A key is made, kept, and certified. It is kept first: should the answer be lost, the next attempt with the same token
   and key is not another use of it.
5. Certificate, trust bundle and settings are written, each whole or not at all.

Doing it again does nothing, and says so; after an interruption it goes on. The agent needs nothing else to start.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshd.agent import node
from meshd.agent.settings import SETTINGS_FILE, Settings, host_label
from meshd.agent.settings_file import load_settings
from meshd.agent.settings_merge import Merged, merged
from meshd.api.clocks import CLOCKS_APART_S
from meshd.api.loading import parse, read_text
from meshd.api.names import Identity, InvalidName, check_label, is_trust_domain
from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, files
from meshd.ca.certificates import Life
from meshd.ca.client import CaClient
from meshd.ca.first_contact import find_root, root_of
from meshd.ca.source import Refusal, Unreachable
from meshd.ca.tokens import MalformedToken, PrintedToken
from meshd.ca.wire import Health, Joined

CA_PORT: Final = 4180
NOT_YET: Final = Settings("x.example")
"""What a host has that did not say otherwise, before it knows its mesh."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on this host: the settings file, and what is used where it says nothing of it."""

    settings: Path = Path(SETTINGS_FILE)
    state_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """What this host is now. `is_new`: whether it was not before."""

    identity: Identity
    not_after: float
    is_new: bool
    written: tuple[Path, ...]


async def join(
    url: str, token: str, name: str, places: Places, *, force: bool = False, clock: Callable[[], float] = time.time
) -> Membership:
    """Make this host the node `name` (when empty: as the settings say, else its host name) of the mesh whose CA is at
    url. With `force`, what the settings say otherwise is overridden. Misuse or Problem, in one line, when it fails."""
    url = ca_url(url)
    try:
        printed = PrintedToken.parse(token)
    except MalformedToken as error:
        raise Misuse(f"this is no join token: {error}") from error
    host = _Host(places, url, name)
    with _problems(url):
        root = await root_of(url, printed)
        client = CaClient(url, certificates.pem(root).decode(), token)
        ca = await client.hello()
        settings = host.settings_for(_trust_domain(ca), force)
        host.check_bundle(printed.root_hash, force)
        _compare_clocks(url, ca.now, clock())
        identity = Identity.of_host(ca.trust_domain, host.name)
        held = node.read(host.key)
        if (not_after := _member_until(held, identity, root, clock())) and host.trusts(printed.root_hash):
            return Membership(identity, not_after, is_new=False, written=host.keep(settings))
        key = host.new_key() if held is None else held.key
        joined = await client.join(node.request(key), host.name)
    _check(joined, identity, printed.root_hash, key)
    node.write(host.key, key, joined.chain_pem)
    host.bundle.parent.mkdir(parents=True, exist_ok=True)
    files.write(host.bundle, joined.bundle_pem.encode(), mode=0o644)
    return Membership(identity, joined.not_after, is_new=True, written=(host.key, host.bundle, *host.keep(settings)))


@contextmanager
def _problems(url: str) -> Iterator[None]:
    """What the CA, or what is in its place, makes of a call, in one line."""
    try:
        yield
    except Unreachable as error:
        raise Problem(str(error)) from error
    except Refusal as error:
        raise Problem(f"{url}: the CA refused: {error}") from error


def ca_url(text: str) -> str:
    """The URL that `text` means, which may be a host or HOST:PORT alone; Misuse when it can be none."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        port = parts.port or CA_PORT
    except ValueError as error:
        raise Misuse(f"{text!r} is not the URL of a CA, as in https://ca.example:4180: {error}") from error
    if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.username:
        raise Misuse(f"{text!r} is not the URL of a CA, as in https://ca.example:4180")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port}"


class _Host:
    """This host as its settings file has it, and what joining makes of that."""

    def __init__(self, places: Places, url: str, name: str) -> None:
        """Misuse when name is none; ConfigurationError when the file is not good."""
        self._file, self._url = places.settings, url
        self._text = read_text(self._file) if self._file.exists() else ""
        has_settings = any(
            not (isinstance(value, dict) and "kind" in value) for _, value in parse(self._text, str(self._file))
        )
        # An operator may have written what is theirs to say; which mesh it is, joining says.
        found = load_settings(self._file, NOT_YET.trust_domain) if has_settings else None
        self._found = found
        try:
            self.name = check_label(name or (found.node_name if found is not None else host_label()), "node")
        except InvalidName as error:
            raise Misuse(f"{error}: give this host a name with --node") from error
        self._places = places
        self._state_dir = places.state_dir or Path((found or NOT_YET).state_dir)
        beside = self._file.parent / "bundle.pem"
        self.bundle = beside if found is None else Path(found.ca.bundle)
        self.key = self._state_dir / node.FILE_NAME

    def new_key(self) -> ec.EllipticCurvePrivateKey:
        """A key that is kept from now on."""
        key = certificates.new_key()
        self.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        node.write(self.key, key)
        return key

    def settings_for(self, trust_domain: str, force: bool) -> Merged:
        """The settings file as it is to be; Problem when it says otherwise and may not be overridden."""
        try:
            result = merged(self._text, self._wanted(trust_domain))
        except ValueError as error:
            raise Problem(f"{self._file}: {error}") from error
        if result.contradictions and not force:
            said = "; ".join(map(str, result.contradictions))
            raise Problem(f"{self._file} says otherwise: {said}: correct it, or override it with --force")
        return result

    def check_bundle(self, root_hash: bytes, force: bool) -> None:
        """Problem when this host trusts another mesh's roots already, and may not be made to trust this one's."""
        if not force and self.bundle.exists() and not self.trusts(root_hash):
            raise Problem(
                f"{self.bundle}: this host trusts another CA's root: leave that mesh by removing the file, or override "
                "it with --force"
            )

    def trusts(self, root_hash: bytes) -> bool:
        """Whether the root with that key is in this host's bundle."""
        if not self.bundle.exists():
            return False
        return find_root(self.bundle.read_text(encoding="utf-8", errors="replace"), root_hash) is not None

    def keep(self, settings: Merged) -> tuple[Path, ...]:
        """Write the settings, if they differ from what is there: the paths written."""
        if settings.text == self._text:
            return ()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        mode = self._file.stat().st_mode & 0o777 if self._file.exists() else 0o644
        if settings.contradictions:
            files.write(self._file.with_name(self._file.name + ".before-join"), self._text.encode(), mode)
        files.write(self._file, settings.text.encode(), mode)
        return (self._file,)

    def _wanted(self, trust_domain: str) -> dict[str, Any]:
        found = self._found
        wanted: dict[str, Any] = {"trustDomain": trust_domain}
        if self.name != (found.node_name if found is not None else host_label()):
            wanted["node"] = self.name
        if self._state_dir != Path((found or NOT_YET).state_dir):
            wanted["stateDir"] = str(self._state_dir)
        ca: dict[str, Any] = {}
        if found is None or self._url not in (each.rstrip("/") for each in found.ca.all_urls):
            several = found is not None and found.ca.urls
            ca = {"urls": [self._url]} if several else {"url": self._url}
        if found is None and str(self.bundle) != NOT_YET.ca.bundle:
            ca["bundle"] = str(self.bundle)
        if found is not None and found.ca.token_file:
            ca["tokenFile"] = ""  # a host that has joined proves itself by its own certificate
        return wanted | {"ca": ca} if ca else wanted


def _trust_domain(ca: Health) -> str:
    if not is_trust_domain(ca.trust_domain):
        raise Problem(f"the CA says that its trust domain is {ca.trust_domain!r}, which can be none")
    return ca.trust_domain


def _compare_clocks(url: str, theirs: float, ours: float) -> None:
    if abs(ours - theirs) > CLOCKS_APART_S:
        which = "ahead of" if ours > theirs else "behind"
        raise Problem(f"this host's clock is {abs(ours - theirs):.0f} s {which} the one of {url}: set the clock")


def _member_until(held: node.Node | None, identity: Identity, root: x509.Certificate, now: float) -> float:
    """Until when what is held is a good certificate of that identity below that root; 0 when it is none."""
    if held is None or held.certificate is None or node.identity_of(held.certificate) != identity:
        return 0.0
    if not held.is_below(root):
        return 0.0
    not_after = Life.of(held.certificate).not_after
    return not_after if now < not_after else 0.0


def _check(joined: Joined, identity: Identity, root_hash: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """The CA is verified, so what it says wrong is a fault in it: better found here than at the agent's start."""
    try:
        certificate = x509.load_pem_x509_certificate(joined.chain_pem.encode())
        good = certificate.public_key() == key.public_key() and node.identity_of(certificate) == identity
    except ValueError:
        good = False
    if not good or find_root(joined.bundle_pem, root_hash) is None:
        raise Problem(f"the CA's answer is no certificate of {identity} for this host's key, or not with its own root")
