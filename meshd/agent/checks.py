"""What `meshd check` looks at on a host, by what the agent's settings name: configuration, agent, identity and CA.

Each check is a function of what was read before it; one whose ground is missing is not made, since the error before it
says why. The CA is asked as any stranger may ask it, and nothing is written or signed. How it is shown is
`meshd.view.check`'s affair.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from cryptography import x509
from msgspec.structs import replace

from meshd.agent import node
from meshd.agent.host import check
from meshd.agent.settings import Settings
from meshd.agent.settings_file import read_bundle
from meshd.agent.trust import FILE_NAME, Trust, TrustFile
from meshd.api.control import Status, WorkloadStatus
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.client import CaClient
from meshd.ca.source import Refusal, Unreachable
from meshd.ca.wire import Denial

WARN_UNDER_S: Final = 60 * 86400.0
"""What is left to a root or an issuer, below which it is time to do something: as `linkerd check` has it."""

CLOCKS_WARN_S: Final = 30.0
"""Certificates begin a minute before they are made: within half of that, no clock makes one look too young."""

CLOCKS_ERROR_S: Final = 60.0

STALE_WARN_S: Final = 600.0
"""A registry that is restarted is back before this is over."""

MAX_NAMED: Final = 10


Result = Literal["success", "warning", "error"]


class Check(NamedTuple):
    """One thing looked at: `description` says what is the case when all is well, `message` what is found instead, and
    `hint` what to do."""

    category: str
    description: str
    result: Result = "success"
    message: str = ""
    hint: str = ""


def configuration(file: Path) -> Iterator[Check]:
    """Settings and documents."""
    what = "meshd-config", "settings and documents are good"
    try:
        check(file)
    except ConfigurationError as error:
        yield Check(*what, "error", str(error), "correct them: `meshd agent --check` says the same")
    else:
        yield Check(*what)


def agent(status: Status | Problem, now: float) -> Iterator[Check]:
    """The agent, and the workloads that it has."""
    what = "meshd-agent", "the agent answers"
    if isinstance(status, Problem):
        yield Check(*what, "error", str(status))
        return
    yield Check(*what)
    what = "meshd-agent", "the agent has nothing to complain of"
    if status.configuration:
        yield Check(*what, "warning", "\n".join(status.configuration), "`meshd status` shows the same")
    else:
        yield Check(*what)
    what = "meshd-agent", "every workload has a certificate that is good"
    bad = [
        each
        for each in status.workloads
        if each.certificate_error or (each.certificate_not_after <= now and not _needs_no_proxy(each))
    ]
    without = [f"{each.namespace}/{each.name}: {each.certificate_error or _why_none(each)}" for each in bad]
    if without:
        lives = all(each.certificate_not_after > now for each in bad)
        hint = "see the log of the agent, and `meshd ca entry list` on the CA"
        yield Check(*what, "warning" if lives else "error", "\n".join(without), hint)
    else:
        yield Check(*what)


def _needs_no_proxy(workload: WorkloadStatus) -> bool:
    """Nobody is led to it and no proxy was here for it: what it is it proves by the Workload API, if at all."""
    return not workload.ports and not workload.certificate_not_after


def _why_none(workload: WorkloadStatus) -> str:
    return "it has expired" if workload.certificate_not_after else "it has none"


def discovery(status: Status, now: float) -> Iterator[Check]:
    """Each source of services: whether it can be read, and lets this host read; and how old what is served is."""
    for found, source in zip(status.discovery, status.sources, strict=True):
        if found.healthy and not source.read_at and source.denied is None:  # there is nothing to be read
            continue
        what = "meshd-discovery", f"{source.health} can be read"
        if found.healthy or source.denied:
            yield Check(*what)
        else:
            hint = f"see that it runs and that this host reaches it, and `discovery` ({source.source}) in the settings"
            yield Check(*what, "error" if source.stale else "warning", found.message, hint)
        what = "meshd-discovery", f"{source.health} lets this host read what it asks for"
        if source.denied:
            troubles = dict.fromkeys(each.trouble for each in status.stale if each.source == source.source)
            message = found.message or "\n".join(troubles) or "it refuses to say"
            yield Check(*what, "error", message, "see what the token that the agent has may do there")
        elif source.denied is not None:
            yield Check(*what)
    what = "meshd-discovery", f"no service has been stale for {STALE_WARN_S / 60:.0f} minutes"
    old = [each for each in status.stale if each.stale_since <= now - STALE_WARN_S]
    lines = [f"{each.name} ({each.source}): {each.trouble}" for each in old[:MAX_NAMED]]
    lines += [f"and {len(old) - MAX_NAMED} more"] if len(old) > MAX_NAMED else []
    yield Check(*what, "warning", "\n".join(lines), "`meshd services -o wide` has them all") if old else Check(*what)


def trust_in_force(settings: Settings, file: Path) -> Trust:
    """What this host believes now: the operator's roots, or those that the CA has told of since, and what it denies."""
    pinned = read_bundle(settings, str(file))
    known = TrustFile(Path(settings.state_dir, FILE_NAME)).recall().since(pinned)
    return known if known.bundle_pem else replace(known, bundle_pem=pinned)


def identity(settings: Settings, bundle_pem: str, now: float) -> Iterator[Check]:
    """The roots, and what this host proves itself with."""
    category = "meshd-identity"
    roots = x509.load_pem_x509_certificates(bundle_pem.encode())
    yield from _life(category, "trust bundle", roots, now, "make a new root: docs/ca.md")
    file = Path(settings.state_dir, node.FILE_NAME)
    if settings.ca.token_file or not file.exists():
        return
    what = category, "the node's key can be read by the agent alone"
    try:
        held = node.read(file)
    except Problem as problem:
        yield Check(*what, "error", str(problem))
        return
    yield Check(*what)
    if held is None or held.certificate is None:
        return
    chain = x509.load_pem_x509_certificates(file.read_bytes())
    yield from _good(category, "node's certificate", chain[:1], now, "join this host again: `meshd join`")
    hint = "see the log of the CA: it renews its issuer by itself while it has its root's key"
    yield from _life(category, "issuer", chain[1:], now, hint)


def denials(settings: Settings, denied: Sequence[Denial], identities: Iterable[str]) -> Iterator[Check]:
    """Whether this host or one of its workloads, which have these identities, is among what the CA denies."""
    known = {(each.kind, each.value) for each in denied}
    host, serial = _joined_as(Path(settings.state_dir, node.FILE_NAME))
    found = [f"the node {host}"] if host and ("node", host) in known else []
    if serial and not found and ("serial", serial) in known:
        found = [f"the certificate of the node {host}"]
    found += sorted({each for each in identities if ("identity", each) in known})
    what = "meshd-identity", "the CA denies nothing of what this host is"
    hint = "nobody in the mesh believes it any more: see `meshd ca issued denied` on the CA"
    yield Check(*what, "error", "\n".join(f"{each} is denied" for each in found), hint) if found else Check(*what)


def _joined_as(file: Path) -> tuple[str, str]:
    """The host's name and the serial number in the node's certificate; empty when there is none to be read."""
    try:
        held = node.read(file)
    except Problem:
        return "", ""  # `identity` says so
    if held is None or held.certificate is None:
        return "", ""
    return node.identity_of(held.certificate).host, certificates.serial(held.certificate)


async def authority(settings: Settings, bundle_pem: str) -> list[Check]:
    """Each CA: whether it answers, what its clock says, and whether it has the same roots."""
    found: list[Check] = []
    for url in settings.ca.all_urls:
        client = CaClient(url, bundle_pem)
        what = "meshd-ca", f"the CA at {url} answers"
        before = time.time()
        try:
            health = await client.hello()
            after = time.time()
            news = await client.news(0)
        except (Refusal, Unreachable) as error:
            hint = "see that it runs, that this host reaches it, and that `ca.bundle` is its bundle"
            found.append(Check(*what, "error", str(error), hint))
            continue
        found.append(Check(*what))
        found.append(_trust_domain(settings, health.trust_domain, url))
        found.append(clocks(health.now, before, after, url))
        found.append(_same(bundle_pem, news.bundle_pem, url))
    return found


def clocks(ca_now: float, before: float, after: float, url: str) -> Check:
    """How far the CA's clock is from this host's, which said `before` and `after` when the CA was asked; the way there
    and back is given to it."""
    ahead_s = before - ca_now if ca_now < before else min(after - ca_now, 0.0)
    what = "meshd-ca", f"the clocks of this host and of the CA at {url} agree"
    if abs(ahead_s) <= CLOCKS_WARN_S:
        return Check(*what)
    message = f"this host's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the CA's"
    result: Result = "warning" if abs(ahead_s) <= CLOCKS_ERROR_S else "error"
    return Check(*what, result, message, "set the clock that is wrong, and keep it right (NTP)")


def _trust_domain(settings: Settings, found: str, url: str) -> Check:
    what = "meshd-ca", f"the CA at {url} is of this host's trust domain"
    if found == settings.trust_domain:
        return Check(*what)
    message = f"it is of {found}, and `trustDomain` here is {settings.trust_domain}"
    return Check(*what, "error", message, "correct `trustDomain`, or `ca.url`")


def _same(here_pem: str, there_pem: str, url: str) -> Check:
    what = "meshd-ca", f"this host has the trust bundle of the CA at {url}"
    here, there = (set(x509.load_pem_x509_certificates(pem.encode())) for pem in (here_pem, there_pem))
    if here == there:
        return Check(*what)
    message = f"{len(there - here)} of its roots are not known here, and {len(here - there)} that are known are not its"
    return Check(*what, "warning", message, "start the agent: it follows the CA's bundle; or see its log")


def _good(category: str, name: str, chain: Iterable[x509.Certificate], now: float, hint: str) -> Iterator[Check]:
    """Whether they are good at this time."""
    time_now = datetime.fromtimestamp(now, UTC)
    bad = [
        f"{_named(each)} expired at {each.not_valid_after_utc:%F %TZ}"
        if time_now > each.not_valid_after_utc
        else f"{_named(each)} is not good before {each.not_valid_before_utc:%F %TZ}: is the clock right?"
        for each in chain
        if not each.not_valid_before_utc <= time_now <= each.not_valid_after_utc
    ]
    what = category, f"the {name} is within its validity period"
    yield Check(*what, "error", "\n".join(bad), hint) if bad else Check(*what)


def _life(category: str, name: str, chain: list[x509.Certificate], now: float, hint: str) -> Iterator[Check]:
    """The same, and whether they will be for another 60 days."""
    yield from _good(category, name, chain, now, hint)
    what = category, f"the {name} is valid for at least 60 days"
    soon = [
        f"{_named(each)} expires at {each.not_valid_after_utc:%F %TZ}"
        for each in chain
        if now <= each.not_valid_after_utc.timestamp() < now + WARN_UNDER_S
    ]
    yield Check(*what, "warning", "\n".join(soon), hint) if soon else Check(*what)


def _named(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"the certificate {certificate.serial_number:032x}"
