"""`meshd run`: a command as a meshed process. What it does, in order, is in `meshd.run.sidecar`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click
import uvloop

from meshd.api.control import MAX_WORKERS
from meshd.api.documents import Protocol, Upstream, WorkloadPort
from meshd.api.names import DEFAULT_NAMESPACE, Address, InvalidName, WorkloadName, check_label
from meshd.api.problems import Misuse
from meshd.cli.durations import Duration
from meshd.cli.options import socket_option
from meshd.run import agents
from meshd.run.environment import upstream_variable
from meshd.run.sidecar import Plan, Sidecar

LOOPBACK = "127.0.0.1:0"


class _Label(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_label(value, "the name")
        except InvalidName as error:
            self.fail(str(error), param, ctx)


class _Address(click.ParamType[Address]):
    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        try:
            return Address.parse(str(value))
        except InvalidName as error:
            self.fail(str(error), param, ctx)


class _Workers(click.ParamType[str]):
    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "auto" and not (str(value).isdecimal() and 0 < int(value) <= MAX_WORKERS):
            self.fail(f"{value!r} is neither a number from 1 to {MAX_WORKERS} nor auto", param, ctx)
        return str(value)


class _Upstream(click.ParamType[Upstream]):
    name = "service=host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Upstream:
        service, equals, listen = str(value).partition("=")
        if not (service and equals):
            self.fail(f"{value!r} is not SERVICE=HOST:PORT, as in api=127.0.0.1:9001", param, ctx)
        try:
            return Upstream(service, listen)
        except InvalidName as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--name", required=True, type=_Label(), help="What the workload is called.")
@click.option("--namespace", default=DEFAULT_NAMESPACE, show_default=True, type=_Label(), help="Where it is called so.")
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="A port that CMD listens on; repeatable."
)
@click.option(
    "--protocol",
    type=click.Choice(get_args(Protocol)),
    default="auto",
    show_default=True,
    help="What the ports speak; auto tells by the first bytes of each connection.",
)
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    type=_Upstream(),
    help="A local address that leads to a service, as in api=127.0.0.1:9001; repeatable. CMD finds it in "
    "MESHD_UPSTREAM_API; port 0 is any that is free.",
)
@click.option(
    "--outbound", type=_Address(), default=LOOPBACK, show_default=True, help="Where CMD's calls enter the mesh."
)
@click.option(
    "--inbound",
    type=_Address(),
    default=LOOPBACK,
    show_default=True,
    help="Where other proxies reach this one: 0.0.0.0:4143 to be called from other hosts.",
)
@click.option(
    "--admin",
    type=_Address(),
    default=LOOPBACK,
    show_default=True,
    help="Where /metrics, /ready, /live, /endpoints are.",
)
@click.option(
    "--drain-timeout",
    type=Duration(),
    default="10s",
    show_default=True,
    help="How long connections may take to end after CMD has.",
)
@click.option(
    "--workers",
    default="1",
    show_default=True,
    type=_Workers(),
    help="Processes that share the proxy's work; auto: one for each core that it may use.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Use an agent of your own, with its state in this directory, rather than the host's.",
)
@socket_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    name: str,
    namespace: str,
    ports: tuple[int, ...],
    protocol: Protocol,
    upstreams: tuple[Upstream, ...],
    outbound: Address,
    inbound: Address,
    admin: Address,
    drain_timeout: float,
    workers: str,
    state_dir: Path | None,
    socket: Path | None,
    quiet: bool,
    cmd: tuple[str, ...],
) -> None:
    """Run CMD as a meshed process: with an identity, mutual TLS to and from other workloads, and metrics.

    \b
      meshd run --name api --port 8080 -- ./api --listen 127.0.0.1:8080
      meshd run --name web --port 8000 --upstream api=127.0.0.1:9001 -- ./web

    Its HTTP calls go through the mesh by the http_proxy that it finds in its environment, other calls through
    upstreams. It is called once its ports accept connections. Signals are passed on to it; on SIGTERM callers are sent
    elsewhere first. The host's agent is used where there is one, else one of your own is started and shared by all
    your workloads.

    Exit status: CMD's own, 128+N when signal N ended it, 127 and 126 when there is no such command or it cannot be
    executed; 1 when it could not be meshed.
    """
    _check_distinct("--port", [str(port) for port in ports])
    _check_distinct("--upstream", [upstream_variable(each.service) for each in upstreams])
    plan = Plan(
        WorkloadName(namespace, name),
        cmd,
        tuple(WorkloadPort(port, protocol) for port in ports),
        upstreams,
        outbound,
        inbound,
        admin,
        drain_timeout,
        workers,
    )
    logging.basicConfig(format="meshd: %(message)s", level=logging.WARNING if quiet else logging.INFO)
    sys.exit(uvloop.run(_run(plan, agents.choose(socket, state_dir, os.environ))))


async def _run(plan: Plan, agent: agents.Agent) -> int:
    return await Sidecar(plan, agent, os.environ).run()


def _check_distinct(flag: str, values: Sequence[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise Misuse(f"{flag} {value} is given twice")
