"""`meshd inject`: a systemd unit into the mesh, or manifests of Kubernetes (`k8s.cli.injecting`)."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from meshd.agent.settings import SETTINGS_FILE, Settings
from meshd.agent.settings_file import load_settings
from meshd.api.names import DEFAULT_NAMESPACE, InvalidName, WorkloadName
from meshd.api.problems import Misuse, Problem

if TYPE_CHECKING:
    from meshd.agent import injecting
    from meshd.capture.injection import Wish

Port = click.IntRange(1, 65535)


MANIFESTS = (".yaml", ".yml", ".json")


def is_manifest(source: str) -> bool:
    """Whether what is named is a file, a directory or standard input, and no unit: a unit's name has no slash."""
    return source in ("-", ".", "..") or "/" in source or source.endswith(MANIFESTS)


@click.command()
@click.argument("unit", metavar="UNIT|FILE|DIRECTORY|-")
@click.option("--port", "ports", type=Port, multiple=True, help="A port that it listens on; may be repeated.")
@click.option("--name", help="What the workload is called. Default: the unit's name.")
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="The workload's namespace.")
@click.option("--skip-outbound-ports", type=Port, multiple=True, help="A port that it connects to past the mesh.")
@click.option("--skip-outbound-cidrs", multiple=True, help="A network that it connects to past the mesh.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--restart", is_flag=True, help="Restart the unit, which it is not meshed before.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=SETTINGS_FILE,
    show_default=True,
    help="The agent's settings. For manifests those of an installation, in place of the cluster's.",
)
@click.option(
    "--manual", is_flag=True, help="Manifests: add the sidecar itself, which else the cluster's injector does."
)
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="Manifests: another setting; repeatable.")
@click.option(
    "--native-sidecar/--no-native-sidecar", default=None, help="Manifests: what kind of sidecar --manual adds."
)
@click.option("--kubeconfig", default="", help="Manifests: how the cluster is reached. Default: as for kubectl.")
@click.option("--context", default="", help="Manifests: which context of the kubeconfig.")
@click.option("--meshd-namespace", default="meshd", show_default=True, help="Manifests: where the control plane is.")
@click.pass_context
def command(
    ctx: click.Context, unit: str, ports: tuple[int, ...], name: str | None, namespace: str,
    skip_outbound_ports: tuple[int, ...], skip_outbound_cidrs: tuple[str, ...], dry_run: bool, restart: bool,
    config: Path, manual: bool, values: tuple[str, ...], native_sidecar: bool | None, kubeconfig: str, context: str,
    meshd_namespace: str,
) -> None:  # fmt: skip
    """Put UNIT, a service of systemd, into the mesh; or the workloads of Kubernetes manifests, on standard output.

    \b
      meshd inject web.service --port 8080
      meshd inject web.service --port 8080 --name shop-web -n shop --restart
      meshd inject web.yaml | kubectl apply -f -
      kubectl get deploy -o yaml | meshd inject - | kubectl apply -f -

    A drop-in has it run in the slice that is captured, and a Workload document says which workload it is. Nothing else
    of the unit is touched; `meshd uninject UNIT` removes both. Running it again changes nothing. Where a document in a
    file has the unit in its selectors already, and `capture`, no --port is needed.

    In manifests, YAML or JSON, each pod template and each namespace gets the annotation `meshd.io/inject: enabled`, by
    which the cluster's injector adds the sidecar when a pod is made; with --manual it is added here, as the cluster's
    settings have it, or those of --config. All else stays byte for byte, and `meshd uninject` restores the rest. A
    directory is all its .yaml, .yml and .json files.

    Exit status: 0 when it is in the mesh, 1 when it cannot be, with all the reasons.
    """
    manifests = ("manual", "values", "native_sidecar", "kubeconfig", "context", "meshd_namespace")
    units = ("ports", "name", "namespace", "skip_outbound_ports", "skip_outbound_cidrs", "dry_run", "restart")
    if is_manifest(unit):
        _refuse(ctx, units, "is for a unit of systemd, and this is a manifest")
        _inject_manifests(ctx, unit, config, manual, values, native_sidecar, kubeconfig, context, meshd_namespace)
        return
    _refuse(ctx, manifests, "is for manifests: a file, a directory with a slash in its name, or -")
    _inject_unit(unit, ports, name, namespace, skip_outbound_ports, skip_outbound_cidrs, dry_run, restart, config)


def _refuse(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """Misuse where one of these was given on the command line."""
    options = {each.name: each.opts[0] for each in ctx.command.params}
    for each in names:
        if ctx.get_parameter_source(each) is ParameterSource.COMMANDLINE:
            raise Misuse(f"{options[each]} {why}")


def _inject_manifests(
    ctx: click.Context, source: str, config: Path, manual: bool, values: tuple[str, ...], native: bool | None,
    kubeconfig: str, context: str, namespace: str,
) -> None:  # fmt: skip
    from k8s.cli.injecting import inject_manifests  # noqa: PLC0415 - for manifests alone

    given = config if ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE else None
    if not manual and (given is not None or values or native is not None):
        raise Misuse(
            "--config, --set and --native-sidecar are for --manual: without it the cluster's injector has its own"
        )
    inject_manifests(
        source, manual=manual, config=given, given=values, native=native,
        kubeconfig=kubeconfig, context=context, namespace=namespace,
    )  # fmt: skip


def _inject_unit(
    unit: str, ports: tuple[int, ...], name: str | None, namespace: str, skip_outbound_ports: tuple[int, ...],
    skip_outbound_cidrs: tuple[str, ...], dry_run: bool, restart: bool, config: Path,
) -> None:  # fmt: skip
    from meshd.agent import injecting  # noqa: PLC0415 - other verbs need none of it
    from meshd.capture import units  # noqa: PLC0415

    logging.disable()  # what is wrong is printed
    unit = units.full_name(unit)
    if reason := units.misnamed(unit):
        raise injecting.Refused(unit, [reason])
    settings = load_settings(config)
    places = injecting.Places.of(config.absolute(), settings)
    documents = injecting.declared(injecting.documents_of(config, settings))
    wish = _wish(
        unit, ports, name, namespace, skip_outbound_ports, skip_outbound_cidrs, settings, documents, places,
        injecting.waiting(config),
    )  # fmt: skip
    reasons = list(injecting.host_refusals(settings))
    manager = injecting.Systemctl()
    if not reasons:
        exempt = settings.capture.exempt_users
        reasons = list(injecting.unit_refusals(wish, manager.show(unit), places, documents, exempt))
    if dry_run:
        for path, content in injecting.wanted(wish, places):
            click.echo(f"# {path}\n{content.decode()}")
    if reasons:
        raise injecting.Refused(unit, reasons)
    if dry_run:
        return
    try:
        written = injecting.inject(wish, places, manager)
    except OSError as error:  # what was written by then is recorded
        raise Problem(f"{unit}: {error.filename}: {error.strerror}") from error
    for path in written:
        click.echo(f"wrote {path}")
    if restart:
        manager.do("restart", unit)
        click.echo(f"restarted {unit}: it is in the mesh as {wish.workload}")
    elif written:
        click.echo(f"restart {unit}: then it is in the mesh as {wish.workload}")
    else:
        click.echo(f"{unit} is in the mesh already, as {wish.workload}: nothing is written")


def _wish(
    unit: str, ports: tuple[int, ...], name: str | None, namespace: str, skip_ports: tuple[int, ...],
    skip_networks: tuple[str, ...], settings: Settings, documents: "injecting.Declarations", places: "injecting.Places",
    waiting: tuple[str, ...],
) -> "Wish":  # fmt: skip
    """What is asked for; Misuse when that cannot be meant."""
    from meshd.capture.injection import Wish, default_name  # noqa: PLC0415
    from meshd.capture.plan import networks  # noqa: PLC0415

    written = [
        (found, workload)
        for found, (workload, origin) in documents.items()
        if any(each.unit == unit for each in workload.spec.selectors) and not places.wrote(unit, origin)
    ]
    wish = partial(Wish, unit, slice=settings.capture.slice, waiting=waiting)
    if written and not ports and name is None:
        (found, workload), *more = written
        if more or workload.spec.capture is None:
            why = "more than one Workload selects it" if more else f"the Workload {found} needs `capture: {{}}`"
            raise Problem(f"{unit}: {why}")
        capture = workload.spec.capture
        skips = capture.skip_outbound_ports, capture.skip_outbound_cidrs
        return wish(found, (), *skips, has_document=True)
    if not ports:
        raise Misuse("give the port that it listens on, with --port; --port may be given more than once")
    called = name if name is not None else default_name(unit)
    try:
        workload_name = WorkloadName.parse(f"{namespace}/{called}")
        networks(skip_networks, "--skip-outbound-cidrs")
    except (InvalidName, ValueError) as error:
        raise Misuse(f"{error}" + ("" if called else ": give a name with --name")) from error
    return wish(workload_name, tuple(sorted(set(ports))), tuple(sorted(set(skip_ports))), skip_networks)
