"""The certificate authority: `meshd ca serve`, as on a host, with an issuer that is in a Secret.

What it must not forget (which hosts joined, what is denied, what was issued) is in a file, on a volume that one pod has
at a time, and then there is one CA: hence a StatefulSet, which never runs two. Or it is in custom resources, as with
`--ha`, and then there may be several, by the names of whose pods they know each other: again a StatefulSet. No traffic
waits for them, and certificates are renewed 8 hours before they end; a pod that starts while all are away waits for its
first one.
"""

from collections.abc import Iterator
from typing import Any, Final

import yaml
from msgspec.structs import replace

from k8s.manifests.common import (
    ALL_FAMILIES,
    SETTINGS_DIRECTORY,
    SETTINGS_VOLUME,
    annotations,
    apart,
    budget,
    component,
    group,
    liveness,
    of_namespace,
    readiness,
    startup,
    unprivileged,
)
from k8s.manifests.identity import CHAIN_KEY, ISSUER_SECRET, PRIVATE_KEY
from k8s.manifests.kinds import (
    ClaimResources,
    ClaimSpec,
    ClaimVolume,
    ConfigMapVolume,
    Container,
    ContainerPort,
    EmptyDir,
    KeyToPath,
    Metadata,
    Mount,
    Object,
    PersistentVolumeClaim,
    PodSpec,
    PodTemplate,
    Resources,
    SecretVolume,
    Selector,
    Service,
    ServicePort,
    ServiceSpec,
    StatefulSet,
    StatefulSetSpec,
    Volume,
)
from k8s.settings import CA, CA_PORT, CONFIG_MAP, Installation

SETTINGS_KEY: Final = "ca.yaml"
ANCHORS_KEY: Final = "trust-anchors.pem"
"""In the ConfigMap, beside the installation's settings."""

ADMIN_PORT: Final = 4181

ISSUER_DIRECTORY: Final = "/etc/meshd-issuer"
VOLUME_DIRECTORY: Final = "/var/lib"
"""Its group can write to it. The CA's directory, which is the CA's alone, is in it where commands look for it
(`/var/lib/meshd-ca`), and so are its settings (`/etc/meshd/ca.yaml`): `kubectl exec` needs to name neither."""

API_SERVER: Final = "https://kubernetes.default.svc"

RESOURCES: Final = Resources(limits={"memory": "256Mi"}, requests={"cpu": "50m", "memory": "96Mi"})

TERMINATION_S: Final = 10


def own_settings(settings: Installation) -> str:
    """The CA's `ca.yaml`. The rest of what it is told are arguments."""
    content: dict[str, Any] = {
        "issuer": {"key": f"{ISSUER_DIRECTORY}/{PRIVATE_KEY}", "chain": f"{ISSUER_DIRECTORY}/{CHAIN_KEY}"},
        "kubernetes": {"url": API_SERVER},
        "admin": f"0.0.0.0:{ADMIN_PORT}",
    }
    if settings.ca.storage == "kubernetes":
        content["store"] = {"kubernetes": {"url": API_SERVER, "namespace": settings.namespace}}
    return yaml.safe_dump(content, sort_keys=False)


def authority(settings: Installation, checksum: str) -> Iterator[Object]:
    """All of it but the Secret. The pod is replaced when checksum is another."""
    labels = component(CA)
    if settings.ca.storage == "persistent":
        yield PersistentVolumeClaim(
            api_version="v1",
            kind="PersistentVolumeClaim",
            metadata=of_namespace(settings, CA),
            spec=ClaimSpec(
                access_modes=["ReadWriteOnce"],
                storage_class_name=settings.ca.storage_class,
                resources=ClaimResources(requests={"storage": settings.ca.storage_size}),
            ),
        )
    yield Service(
        api_version="v1",
        kind="Service",
        metadata=of_namespace(settings, CA),
        spec=ServiceSpec(
            ip_family_policy=ALL_FAMILIES,
            selector=labels,
            ports=[ServicePort(name="https", port=CA_PORT, target_port="https")],
        ),
    )
    yield StatefulSet(
        api_version="apps/v1",
        kind="StatefulSet",
        metadata=of_namespace(settings, CA, labels),
        spec=StatefulSetSpec(
            replicas=settings.ca.replicas,
            # with a pod that is not ready, `OrderedReady` would wait for it instead of replacing it by a better one
            pod_management_policy="Parallel",
            service_name=CA,
            selector=Selector(match_labels=labels),
            template=PodTemplate(
                metadata=Metadata(
                    labels=labels, annotations=annotations(checksum, loses_nothing=settings.ca.storage != "ephemeral")
                ),
                spec=_pod(settings),
            ),
        ),
    )

    if settings.ca.replicas > 1:
        yield budget(settings, CA)


def names(settings: Installation) -> list[str]:
    """What the CA is reached by, and its certificate is for."""
    within = f"{CA}.{settings.namespace}.svc"
    elsewhere = (each.strip() for each in settings.ca.names.split(","))
    return [within, f"{within}.{settings.cluster_domain}", *(each for each in elsewhere if each)]


def _pod(settings: Installation) -> PodSpec:
    return PodSpec(
        service_account_name=CA,
        priority_class_name=settings.priority_class,
        node_selector={"kubernetes.io/os": "linux"},
        affinity=apart(CA) if settings.high_availability and settings.ca.replicas > 1 else None,
        security_context=group(),
        termination_grace_period_seconds=TERMINATION_S,
        init_containers=[_making(settings)],
        containers=[_serving(settings)],
        volumes=[
            Volume(
                name=SETTINGS_VOLUME,
                config_map=ConfigMapVolume(
                    name=CONFIG_MAP,
                    items=[KeyToPath(key=each, path=each) for each in (SETTINGS_KEY, ANCHORS_KEY)],
                ),
            ),
            Volume(name="issuer", secret=SecretVolume(secret_name=ISSUER_SECRET, default_mode=0o440)),
            _state(settings),
            Volume(name="tmp", empty_dir=EmptyDir()),
        ],
    )


def _state(settings: Installation) -> Volume:
    if settings.ca.storage == "persistent":
        return Volume(name="state", persistent_volume_claim=ClaimVolume(claim_name=CA))
    return Volume(name="state", empty_dir=EmptyDir())


def _making(settings: Installation) -> Container:
    """Makes the CA's directory on a volume that is empty, and has one that is there believe in the anchors of now."""
    return _container(
        settings,
        "init",
        [
            "ca",
            "init",
            "--again",
            "--trust-domain",
            settings.trust_domain,
            "--bundle",
            f"{SETTINGS_DIRECTORY}/{ANCHORS_KEY}",
        ],
    )


def _serving(settings: Installation) -> Container:
    listen = f"0.0.0.0:{CA_PORT}"
    arguments = ["ca", "serve", "--listen", listen, *(f"--name={name}" for name in names(settings))]
    return replace(
        _container(settings, "ca", [*arguments, "--log-level", settings.ca.log_level]),
        ports=[
            ContainerPort(name="https", container_port=CA_PORT),
            ContainerPort(name="admin", container_port=ADMIN_PORT),
        ],
        startup_probe=startup("admin"),
        readiness_probe=readiness("admin"),
        liveness_probe=liveness("admin"),
    )


def _container(settings: Installation, name: str, arguments: list[str]) -> Container:
    return Container(
        name=name,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        command=["meshd"],
        args=arguments,
        resources=RESOURCES,
        security_context=unprivileged(),
        volume_mounts=[
            Mount(name=SETTINGS_VOLUME, mount_path=SETTINGS_DIRECTORY, read_only=True),
            Mount(name="issuer", mount_path=ISSUER_DIRECTORY, read_only=True),
            Mount(name="state", mount_path=VOLUME_DIRECTORY),
            Mount(name="tmp", mount_path="/tmp"),  # noqa: S108 - the container's own
        ],
    )
