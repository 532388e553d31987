"""The controllers: a Deployment, the Services by which sidecars and the API server reach it, and what keeps it up."""

from collections.abc import Iterator
from typing import Final

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
from k8s.manifests.kinds import (
    ConfigMapVolume,
    Container,
    ContainerPort,
    Deployment,
    DeploymentSpec,
    EmptyDir,
    Env,
    KeyToPath,
    Metadata,
    Mount,
    Object,
    ObjectField,
    PodSpec,
    PodTemplate,
    ProjectedVolume,
    Projection,
    Resources,
    RollingUpdate,
    Secret,
    Selector,
    Service,
    ServicePort,
    ServiceSpec,
    Strategy,
    TokenProjection,
    ValueFrom,
    Volume,
)
from k8s.manifests.rights import INJECTOR_SECRET
from k8s.settings import (
    CONFIG_KEY,
    CONFIG_MAP,
    CONTROLLER,
    CONTROLLER_ADMIN_PORT,
    CONTROLLER_PORT,
    INJECTOR,
    INJECTOR_PORT,
    Installation,
)
from meshd.ca.kubernetes import AUDIENCE

TOKEN_VOLUME: Final = "identity"  # noqa: S105 - the name of a volume
TOKEN_DIRECTORY: Final = "/var/run/secrets/meshd.io/token"  # noqa: S105 - where one is
TOKEN_LIFE_S: Final = 86400
"""The kubelet renews it when four fifths are over. The cluster may make it shorter, and the certificate that it is
shown for is renewed with the token of then."""

STATE_DIRECTORY: Final = "/run/meshd"
"""Its socket, and what discovery and the CA said last: nothing that would have to outlive the pod."""

RESOURCES: Final = Resources(
    limits={"memory": "512Mi"},
    requests={"cpu": "100m", "memory": "128Mi"},
)
"""A thousand sidecars take some 300 MB; and a limit of processor time would only make all of them wait."""

TERMINATION_S: Final = 30


def controller(settings: Installation, checksum: str) -> Iterator[Object]:
    """All of it. The pods are replaced when checksum, of what they read as they start, is another."""
    yield Secret(
        api_version="v1", kind="Secret", metadata=of_namespace(settings, INJECTOR_SECRET), type="Opaque"
    )  # its content is the controllers'
    yield _service(settings, CONTROLLER, ServicePort(name="control", port=CONTROLLER_PORT, target_port="control"))
    yield _service(settings, INJECTOR, ServicePort(name="webhook", port=443, target_port="webhook"))
    labels = component(CONTROLLER)
    yield Deployment(
        api_version="apps/v1",
        kind="Deployment",
        metadata=of_namespace(settings, CONTROLLER, labels),
        spec=DeploymentSpec(
            replicas=settings.replicas,
            selector=Selector(match_labels=labels),
            strategy=_strategy(settings),
            template=PodTemplate(
                metadata=Metadata(labels=labels, annotations=annotations(checksum)),
                spec=_pod(settings),
            ),
        ),
    )
    if settings.high_availability:
        yield budget(settings, CONTROLLER)


def _service(settings: Installation, name: str, port: ServicePort) -> Service:
    return Service(
        api_version="v1",
        kind="Service",
        metadata=of_namespace(settings, name),
        spec=ServiceSpec(ip_family_policy=ALL_FAMILIES, selector=component(CONTROLLER), ports=[port]),
    )


def _strategy(settings: Installation) -> Strategy:
    """One more before one less. Where each has a node of its own, there may be no node for one more: one less, too."""
    unavailable = 1 if settings.high_availability else 0
    return Strategy(type="RollingUpdate", rolling_update=RollingUpdate(max_surge=1, max_unavailable=unavailable))


def _pod(settings: Installation) -> PodSpec:
    return PodSpec(
        service_account_name=CONTROLLER,
        priority_class_name=settings.priority_class,
        node_selector={"kubernetes.io/os": "linux"},
        affinity=apart(CONTROLLER) if settings.high_availability else None,
        security_context=group(),
        termination_grace_period_seconds=TERMINATION_S,
        containers=[_container(settings)],
        volumes=[
            Volume(
                name=SETTINGS_VOLUME,
                config_map=ConfigMapVolume(name=CONFIG_MAP, items=[KeyToPath(key=CONFIG_KEY, path=CONFIG_KEY)]),
            ),
            Volume(
                name=TOKEN_VOLUME,
                projected=ProjectedVolume(
                    default_mode=0o440,
                    sources=[
                        Projection(
                            service_account_token=TokenProjection(
                                audience=AUDIENCE, expiration_seconds=TOKEN_LIFE_S, path="token"
                            )
                        )
                    ],
                ),
            ),
            Volume(name="run", empty_dir=EmptyDir()),
            Volume(name="tmp", empty_dir=EmptyDir()),
        ],
    )


def _container(settings: Installation) -> Container:
    return Container(
        name="controller",
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        command=["meshd"],
        args=[
            "controller",
            "--config",
            f"{SETTINGS_DIRECTORY}/{CONFIG_KEY}",
            "--log-level",
            settings.controller_log_level,
        ],
        env=[
            Env(name="POD_NAME", value_from=ValueFrom(field_ref=ObjectField(field_path="metadata.name"))),
            Env(name="POD_NAMESPACE", value_from=ValueFrom(field_ref=ObjectField(field_path="metadata.namespace"))),
        ],
        ports=[
            ContainerPort(name="control", container_port=CONTROLLER_PORT),
            ContainerPort(name="webhook", container_port=INJECTOR_PORT),
            ContainerPort(name="admin", container_port=CONTROLLER_ADMIN_PORT),
        ],
        startup_probe=startup("admin"),
        readiness_probe=readiness("admin"),
        liveness_probe=liveness("admin"),
        resources=RESOURCES,
        security_context=unprivileged(),
        volume_mounts=[
            Mount(name=SETTINGS_VOLUME, mount_path=SETTINGS_DIRECTORY, read_only=True),
            Mount(name=TOKEN_VOLUME, mount_path=TOKEN_DIRECTORY, read_only=True),
            Mount(name="run", mount_path=STATE_DIRECTORY),
            Mount(name="tmp", mount_path="/tmp"),  # noqa: S108 - the container's own
        ],
    )
