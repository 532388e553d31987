"""`meshd controller`: the control API for the sidecars of a cluster. What `meshd install` prints runs it."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s.settings import CONTROLLER_ADMIN_PORT, CONTROLLER_PORT, INJECTOR_PORT, Installation
from meshd.agent.daemon import heed_signals
from meshd.api.loading import read_text
from meshd.api.logs import log_to_stderr
from meshd.api.names import Address, InvalidName
from meshd.api.problems import Misuse
from meshd.api.tasks import Tasks
from meshd.ca.server import allow_connections
from meshd.cli.logs import log_level_option
from meshd.client.sockets import HOST_SOCKET

if TYPE_CHECKING:
    from k8s.controller.controller import Place

CONFIG = "/etc/meshd/settings.yaml"

LINGER_S = 3.0
"""That reviews are still answered after SIGTERM: the pod is among the Service's until everybody has heard."""


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The installation's settings, as the ConfigMap meshd-config has them.",
)
@click.option(
    "--listen",
    default=f"0.0.0.0:{CONTROLLER_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where sidecars are served.",
)
@click.option(
    "--webhooks",
    default=f"0.0.0.0:{INJECTOR_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the API server has pods injected and documents checked; empty for nowhere.",
)
@click.option(
    "--admin",
    default=f"0.0.0.0:{CONTROLLER_ADMIN_PORT}",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /metrics, /ready and /live are.",
)
@click.option(
    "--socket",
    envvar="MESHD_SOCKET",
    type=click.Path(path_type=Path),
    default=HOST_SOCKET,
    show_default=True,
    help="The Unix socket for `meshd status` in the controller's pod; MESHD_SOCKET.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Directory for what discovery and the CA said last; that of the socket when it is not given.",
)
@click.option(
    "--ca", "ca", multiple=True, metavar="URL", help="A CA, as in https://ca.example:4180; the cluster's own."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="The service account's token for the CA.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="For a controller that is not in its cluster.")
@log_level_option
def command(
    config: Path,
    listen: str,
    webhooks: str,
    admin: str,
    socket: Path,
    state_dir: Path | None,
    ca: tuple[str, ...],
    token_file: Path | None,
    kubeconfig: Path | None,
    log_level: str,
) -> None:
    """Serve the sidecars of a cluster.

    It ends in order on SIGTERM: sidecars go to another controller, or go on with what they know.
    """
    import uvloop  # noqa: PLC0415 - what runs is imported when it is run

    from k8s.controller.controller import TOKEN_FILE, Place  # noqa: PLC0415
    from k8s.settings_text import loaded  # noqa: PLC0415

    place = Place(
        name=os.environ.get("POD_NAME") or os.uname().nodename,
        listen=_address(listen, "--listen"),
        admin=_address(admin, "--admin"),
        socket=socket.absolute(),
        state_dir=(state_dir or socket.parent).absolute(),
        ca=ca,
        token_file=(token_file or Path(TOKEN_FILE)).absolute(),
        kubeconfig=str(kubeconfig.absolute()) if kubeconfig is not None else "",
    )
    installation = loaded(read_text(config), str(config))
    log_to_stderr(log_level, "meshd-controller")
    uvloop.run(_run(installation, place, _address(webhooks, "--webhooks") if webhooks else None))


async def _run(installation: Installation, place: "Place", webhooks: Address | None) -> None:
    from discovery.kubernetes.access import Access  # noqa: PLC0415
    from k8s.controller.controller import Controller  # noqa: PLC0415
    from k8s.webhook.injector import Injector  # noqa: PLC0415

    ended = heed_signals()
    allow_connections()
    access = Access(place.kubeconfig)
    injectors = []
    if webhooks is not None:

        def anchors() -> str:  # there is a controller by the time it is asked
            return controller.core.signer.trust_bundle_pem

        injectors.append(Injector(installation, access, webhooks, anchors=anchors, linger_s=LINGER_S))
    controller: Controller = Controller(installation, place, injectors)
    tasks = Tasks("meshd controller")
    ending = tasks.start(ended.wait(), "signals")
    starting = tasks.start(controller.start(), "start")
    try:
        await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await ending
    finally:
        await tasks.cancel()
        await controller.stop()
        await access.close()


def _address(text: str, option: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidName as error:
        raise Misuse(f"{option}: {error}") from error
