"""`meshd ca issued`: what the CA has signed, and what of it is no longer to be believed."""

import time
from typing import Literal

import click

from meshd.api.names import Identity, InvalidName, WorkloadName
from meshd.api.problems import Misuse
from meshd.ca.material import when
from meshd.ca.registrar import Registrar
from meshd.cli.ca.common import Place, ago, list_option, show, store_options
from meshd.view.figures import span


@click.group()
def issued() -> None:
    """What the CA has signed, and what of it is no longer to be believed."""


@issued.command("list")
@click.option("--node", default="", help="Only what went to this node.")
@click.option("--workload", default="", metavar="NS/NAME", help="Only certificates of this workload.")
@click.option("--all", "with_expired", is_flag=True, help="Also those that expired, in the last 30 days.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="How many at most.")
@list_option
@store_options
def list_command(node: str, workload: str, with_expired: bool, limit: int, output: str, at: Place) -> None:
    """List the certificates that are on record, the newest first."""
    now = time.time()
    with at.registrar() as registrar:
        identity = str(_identity(registrar, workload)) if workload else ""
        found = registrar.store.issued(node=node, identity=identity, until=0.0 if with_expired else now, limit=limit)
        denied = {(each.kind, each.value) for each in registrar.store.denied().records}
    heading: tuple[str, ...] = ("SERIAL", "IDENTITY", "NODE", "AGE", "EXPIRES", "STATE")
    rows, data = [], []
    for each in found:
        is_denied = not denied.isdisjoint({("serial", each.serial), ("identity", each.identity), ("node", each.node)})
        state = "denied" if is_denied else "expired" if each.not_after <= now else "good"
        expires = span(each.not_after - now) if each.not_after > now else f"{ago(each.not_after)}-ago"
        identity = each.identity.replace(" ", ",")
        rows.append((each.serial, identity, each.node or "-", ago(each.issued_at), expires, state, each.requester))
        data.append({**each._asdict(), "state": state})
    if output == "wide":
        heading = (*heading, "REQUESTER")
        rows = [(*row[:-1], row[-1].replace(" ", "-")) for row in rows]
    show(output, data, heading, [row[: len(heading)] for row in rows])


_which = (
    click.option("--serial", default="", help="One certificate."),
    click.option("--workload", default="", metavar="NS/NAME", help="All certificates of a workload, on every node."),
    click.option("--node", default="", help="A node, and all that it was given."),
)


@issued.command("revoke")
@_which[0]
@_which[1]
@_which[2]
@click.option("--reason", default="revoked", show_default=True, help="For the audit log, and for who is refused.")
@store_options
def revoke(serial: str, workload: str, node: str, reason: str, at: Place) -> None:
    """Put a certificate, a workload or a node on the deny list, which every agent follows.

    The CA signs nothing for a denied workload or node, until `meshd ca issued allow`.
    """
    kind, value = _one_of(serial, workload, node)
    with at.registrar() as registrar:
        if kind == "node":
            count = registrar.deny_node(value, reason)
            click.echo(f"the node {value} is denied, with {count} certificates that it was given")
        elif kind == "serial":
            found = registrar.deny_serial(value.lower(), reason)
            click.echo(f"the certificate of {found.identity} is denied, until it expires at {when(found.not_after)}")
        else:
            identity = _identity(registrar, value)
            registrar.deny_identity(identity, reason)
            click.echo(f"{identity} is denied, on every node")


@issued.command("allow")
@_which[0]
@_which[1]
@_which[2]
@store_options
def allow(serial: str, workload: str, node: str, at: Place) -> None:
    """Take a certificate, a workload or a node off the deny list."""
    kind, value = _one_of(serial, workload, node)
    with at.registrar() as registrar:
        registrar.allow(kind, str(_identity(registrar, value)) if kind == "identity" else value)


@issued.command("denied")
@list_option
@store_options
def denied_command(output: str, at: Place) -> None:
    """List what is denied."""
    with at.registrar() as registrar:
        records = registrar.store.denied().records
    now = time.time()
    rows = [
        (each.kind, each.value, ago(each.made_at), span(each.expires_at - now) if each.expires_at else "never",
         each.reason.replace(" ", "-") or "-")
        for each in records
    ]  # fmt: skip
    show(output, [each._asdict() for each in records], ("KIND", "VALUE", "AGE", "EXPIRES", "REASON"), rows)


def _one_of(serial: str, workload: str, node: str) -> tuple[Literal["serial", "identity", "node"], str]:
    given: list[tuple[Literal["serial", "identity", "node"], str]] = []
    if serial:
        given.append(("serial", serial))
    if workload:
        given.append(("identity", workload))
    if node:
        given.append(("node", node))
    if len(given) != 1:
        raise Misuse("give one of --serial, --workload and --node")
    return given[0]


def _identity(registrar: Registrar, workload: str) -> Identity:
    try:
        return Identity.of(registrar.trust_domain, WorkloadName.parse(workload))
    except InvalidName as error:
        raise Misuse(f"--workload {error}") from error
