"""The checks of what the agent's settings name: configuration, agent, discovery, identity and CA.

Each check is a function of what was read before it; one whose ground is missing is not made, since the error before it
says why. The CA is asked as any stranger may ask it, and nothing is written or signed.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from msgspec.structs import replace

from meshd.agent import node
from meshd.agent.check import kinds
from meshd.agent.check.kinds import SET_THE_CLOCK, Check, Kind, Result
from meshd.agent.credentials import read_bundle
from meshd.agent.host import check
from meshd.agent.registry import NOT_ATTACHED
from meshd.agent.settings import Settings
from meshd.agent.trust import FILE_NAME, Trust, TrustFile
from meshd.api.control import Status, WorkloadStatus
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Problem
from meshd.ca import certificates
from meshd.ca.calls import Untimely
from meshd.ca.client import CaClient, clock_of
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

REJOIN: Final = "join this host again with `meshd join`, if its clock is right (`meshd-time`)"

LOOK_AT_IT: Final = "see that it is there, and that this host reaches it"


def configuration(file: Path) -> Iterator[Check]:
    """Settings and documents."""
    try:
        check(file)
    except ConfigurationError as error:
        hint = f"correct it until `meshd agent --check --config {file}` is content, then `systemctl reload meshd`"
        yield kinds.DOCUMENTS.error(str(error), hint)
    else:
        yield kinds.DOCUMENTS.well()


def agent(status: Status | Problem, now: float) -> Iterator[Check]:
    """The agent, and the workloads that it has."""
    if isinstance(status, Problem):
        hint = "`systemctl start meshd`; `systemctl status meshd` and `journalctl -u meshd` say why it does not run"
        yield kinds.AGENT_ANSWERS.error(str(status), hint)
        return
    yield kinds.AGENT_ANSWERS.well()
    if status.configuration:
        hint = "each line names its place: what is refused there is not in force, and what was good before it is"
        yield kinds.AGENT_COMPLAINS.warning("\n".join(status.configuration), hint)
    else:
        yield kinds.AGENT_COMPLAINS.well()
    bad = [
        each
        for each in status.workloads
        if each.certificate_error or (each.certificate_not_after <= now and not _needs_no_proxy(each))
    ]
    without = [f"{each.namespace}/{each.name}: {each.certificate_error or _why_none(each)}" for each in bad]
    if without:
        lives = all(each.certificate_not_after > now for each in bad)
        is_unable = any("cannot sign now" in each for each in without)
        hint = "on the CA's host, `journalctl -u meshd-ca` says why it cannot, and whether its disk is full"
        hint = hint if is_unable else "see the log of the agent, and `meshd ca entry list` on the CA"
        hint = "start the proxy, which asks for them" if all(map(_has_no_proxy, bad)) else hint
        yield kinds.CERTIFICATES.found("warning" if lives else "error", "\n".join(without), hint)
    else:
        yield kinds.CERTIFICATES.well()


def _needs_no_proxy(workload: WorkloadStatus) -> bool:
    """Nobody is led to it and no proxy was here for it: what it is it proves by the Workload API, if at all."""
    return not workload.ports and not workload.certificate_not_after


def _has_no_proxy(workload: WorkloadStatus) -> bool:
    return NOT_ATTACHED in workload.waiting_for


def _why_none(workload: WorkloadStatus) -> str:
    if workload.certificate_not_after:
        return "it has expired"
    return f"it waits for {NOT_ATTACHED}" if _has_no_proxy(workload) else "it has none"


def discovery(status: Status, now: float) -> Iterator[Check]:
    """Each source of services: whether it can be read, and lets this host read; and how old what is served is."""
    for found, source in zip(status.discovery, status.sources, strict=True):
        if found.healthy and not source.read_at and source.denied is None:  # there is nothing to be read
            continue
        if found.healthy or source.denied:
            yield kinds.SOURCE_READ.well(source.health)
        elif source.stale:
            hint = f"{LOOK_AT_IT}, and `discovery` ({source.source}) in the settings"
            yield kinds.SOURCE_READ.error(found.message, hint, source.health)
        else:
            is_place = source.health.startswith(("file ", "config "))
            hint = "correct what it names: what was last good of it is in force" if is_place else LOOK_AT_IT
            yield kinds.SOURCE_READ.warning(found.message, hint, source.health)
        if source.denied:
            troubles = dict.fromkeys(each.trouble for each in status.stale if each.source == source.source)
            message = found.message or "\n".join(troubles) or "it refuses to say"
            yield kinds.SOURCE_ALLOWS.error(
                message, "see what the token that the agent has may do there", source.health
            )
        elif source.denied is not None:
            yield kinds.SOURCE_ALLOWS.well(source.health)
    minutes = f"{STALE_WARN_S / 60:.0f}"
    old = [each for each in status.stale if each.stale_since <= now - STALE_WARN_S]
    lines = [f"{each.name} ({each.source}): {each.trouble}" for each in old[:MAX_NAMED]]
    lines += [f"and {len(old) - MAX_NAMED} more"] if len(old) > MAX_NAMED else []
    if old:
        yield kinds.SERVICES_FRESH.warning("\n".join(lines), "`meshd services -o wide` has them all", minutes)
    else:
        yield kinds.SERVICES_FRESH.well(minutes)


def trust_in_force(settings: Settings, file: Path) -> Trust:
    """What this host believes now: the operator's roots, or those that the CA has told of since, and what it denies."""
    pinned = read_bundle(settings, str(file))
    if Path(settings.state_dir).is_dir() and not os.access(
        settings.state_dir, os.X_OK
    ):  # it is not everybody's to know
        return Trust(bundle_pem=pinned)
    known = TrustFile(Path(settings.state_dir, FILE_NAME)).recall().since(pinned)
    return known if known.bundle_pem else replace(known, bundle_pem=pinned)


def identity(settings: Settings, bundle_pem: str, now: float) -> Iterator[Check]:
    """The roots, and what this host proves itself with."""
    roots = x509.load_pem_x509_certificates(bundle_pem.encode())
    yield from _life(kinds.BUNDLE_VALID, kinds.BUNDLE_LASTS, roots, now, "make a new root: docs/ca.md")
    file = Path(settings.state_dir, node.FILE_NAME)
    if settings.ca.token_file:
        return
    try:
        if not node.exists(file):
            return
        held = node.read(file)
    except Problem as problem:
        if not os.access(file.parent, os.X_OK):  # it is all right that not everybody may
            yield kinds.NODE_KEY.warning(str(problem), "run this as root")
            return
        hint = f"`chown meshd: {file}` and `chmod 600 {file}`; where others may have read it, join this host again"
        yield kinds.NODE_KEY.error(str(problem), hint)
        return
    yield kinds.NODE_KEY.well()
    if held is None or held.certificate is None:
        return
    chain = x509.load_pem_x509_certificates(file.read_bytes())
    yield _good(kinds.NODE_VALID, chain[:1], now, REJOIN)
    hint = "see the log of the CA: it renews its issuer by itself while it has its root's key"
    yield from _life(kinds.ISSUER_VALID, kinds.ISSUER_LASTS, chain[1:], now, hint)


def denials(settings: Settings, denied: Sequence[Denial], identities: Iterable[str]) -> Iterator[Check]:
    """Whether this host or one of its workloads, which have these identities, is among what the CA denies."""
    known = {(each.kind, each.value) for each in denied}
    host, serial = _joined_as(Path(settings.state_dir, node.FILE_NAME))
    found = [f"the node {host}"] if host and ("node", host) in known else []
    if serial and not found and ("serial", serial) in known:
        found = [f"the certificate of the node {host}"]
    found += sorted({each for each in identities if ("identity", each) in known})
    hint = "nobody in the mesh believes it any more: see `meshd ca issued denied` on the CA"
    lines = "\n".join(f"{each} is denied" for each in found)
    yield kinds.NOT_DENIED.error(lines, hint) if found else kinds.NOT_DENIED.well()


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
        before = time.time()
        try:
            health = await client.hello()
            after = time.time()
            news = await client.news(0)
        except Untimely as error:
            found.append(kinds.CA_ANSWERS.error(str(error), SET_THE_CLOCK, url))
            found += await _two_clocks(url, bundle_pem)
            continue
        except (Refusal, Unreachable) as error:
            hint = "see that it runs, that this host reaches it, and that `ca.bundle` is its bundle"
            found.append(kinds.CA_ANSWERS.error(str(error), hint, url))
            continue
        found.append(kinds.CA_ANSWERS.well(url))
        found.append(_trust_domain(settings, health.trust_domain, url))
        found.append(clocks(health.now, before, after, url))
        found.append(_same(bundle_pem, news.bundle_pem, url))
    return found


async def alone(settings: Settings, bundle_pem: str, now: float) -> list[Check]:
    """Whether the CA knows the node of this name by this host's key: a host that joins under a name takes it over."""
    file = Path(settings.state_dir, node.FILE_NAME)
    try:
        held = None if settings.ca.token_file else node.read(file)
    except Problem:  # `identity` says so
        return []
    if held is None or held.certificate is None or held.certificate.not_valid_after_utc.timestamp() <= now:
        return []
    name = node.identity_of(held.certificate).host
    for url in settings.ca.all_urls:
        try:
            since = await CaClient(url, bundle_pem, certificate=file).other_since()
        except Unreachable:
            continue
        except Refusal as refusal:
            return [kinds.NODE_ALONE.error(str(refusal), REJOIN)]
        if not since:
            return [kinds.NODE_ALONE.well()]
        hint = "join one of the two under a name of its own: `meshd join --node`; the CA's log has both"
        message = f"a host with another key is {name}, too, since {datetime.fromtimestamp(since, UTC):%F %TZ}"
        return [kinds.NODE_ALONE.error(message, hint)]
    return []


async def _two_clocks(url: str, bundle_pem: str) -> list[Check]:
    """Which of them is wrong, as far as the CA can be asked at all."""
    before = time.time()
    try:
        ca_now = await clock_of(url, bundle_pem)
    except (Refusal, Unreachable):
        return []
    return [clocks(ca_now, before, time.time(), url)]


def clocks(ca_now: float, before: float, after: float, url: str) -> Check:
    """How far the CA's clock is from this host's, which said `before` and `after` when the CA was asked; the way there
    and back is given to it."""
    ahead_s = before - ca_now if ca_now < before else min(after - ca_now, 0.0)
    if abs(ahead_s) <= CLOCKS_WARN_S:
        return kinds.CA_CLOCK.well(url)
    message = f"this host's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the CA's"
    result: Result = "warning" if abs(ahead_s) <= CLOCKS_ERROR_S else "error"
    return kinds.CA_CLOCK.found(result, message, SET_THE_CLOCK, url)


def _trust_domain(settings: Settings, found: str, url: str) -> Check:
    if found == settings.trust_domain:
        return kinds.CA_DOMAIN.well(url)
    message = f"it is of {found}, and `trustDomain` here is {settings.trust_domain}"
    return kinds.CA_DOMAIN.error(message, "correct `trustDomain`, or `ca.url`", url)


def _same(here_pem: str, there_pem: str, url: str) -> Check:
    here, there = (set(x509.load_pem_x509_certificates(pem.encode())) for pem in (here_pem, there_pem))
    if here == there:
        return kinds.CA_BUNDLE.well(url)
    message = f"{len(there - here)} of its roots are not known here, and {len(here - there)} that are known are not its"
    return kinds.CA_BUNDLE.warning(message, "start the agent: it follows the CA's bundle; or see its log", url)


def _good(kind: Kind, chain: Iterable[x509.Certificate], now: float, hint: str) -> Check:
    """Whether they are good at this time. What is good later only is the clock's fault, and nothing new is needed."""
    time_now = datetime.fromtimestamp(now, UTC)
    old = [
        f"{_named(each)} expired at {each.not_valid_after_utc:%F %TZ}"
        for each in chain
        if time_now > each.not_valid_after_utc
    ]
    young = [
        f"{_named(each)} is not good before {each.not_valid_before_utc:%F %TZ}, and here it is {time_now:%F %TZ}"
        for each in chain
        if time_now < each.not_valid_before_utc
    ]
    if not old and not young:
        return kind.well()
    return kind.error("\n".join((*old, *young)), hint if old else SET_THE_CLOCK)


def _life(valid: Kind, lasts: Kind, chain: list[x509.Certificate], now: float, hint: str) -> Iterator[Check]:
    """The same, and whether they will be for another 60 days."""
    yield _good(valid, chain, now, hint)
    soon = [
        f"{_named(each)} expires at {each.not_valid_after_utc:%F %TZ}"
        for each in chain
        if now <= each.not_valid_after_utc.timestamp() < now + WARN_UNDER_S
    ]
    yield lasts.warning("\n".join(soon), hint) if soon else lasts.well()


def _named(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"the certificate {certificate.serial_number:032x}"
