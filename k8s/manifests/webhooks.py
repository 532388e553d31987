"""What has the API server call the injector: for each pod that is made, and for each document of the mesh.

There is no `caBundle`: the controllers put their own there when they have made one, and an `apply` of these manifests
later leaves it as it is, since they do not speak of it. Until then calls fail, as `failurePolicy` has it.
"""

from collections.abc import Iterator
from typing import Final

from k8s.manifests.common import of_cluster
from k8s.manifests.kinds import (
    ClientConfig,
    Expressions,
    Object,
    Operations,
    Requirement,
    ServiceReference,
    Webhook,
    WebhookConfiguration,
)
from k8s.settings import INJECTOR, Installation

ADMISSION: Final = "admissionregistration.k8s.io/v1"
INJECT: Final = "meshd.io/inject"

INJECT_PATH: Final = "/inject"
VALIDATE_PATH: Final = "/validate"

TIMEOUT_S: Final = 5
"""That whoever makes a pod may have to wait for an injector that does not answer; one that does takes milliseconds."""


def webhooks(settings: Installation) -> Iterator[Object]:
    meta = of_cluster(settings, INJECTOR)
    yield WebhookConfiguration(
        api_version=ADMISSION,
        kind="MutatingWebhookConfiguration",
        metadata=meta,
        webhooks=[_injector(settings)],
    )
    yield WebhookConfiguration(
        api_version=ADMISSION,
        kind="ValidatingWebhookConfiguration",
        metadata=meta,
        webhooks=[_validator(settings)],
    )


def _injector(settings: Installation) -> Webhook:
    return Webhook(
        name="injector.meshd.io",
        client_config=_at(settings, INJECT_PATH),
        rules=[
            Operations(
                api_groups=[""], api_versions=["v1"], operations=["CREATE"], resources=["pods"], scope="Namespaced"
            )
        ],
        namespace_selector=_meshed_namespaces(settings),
        object_selector=Expressions(match_expressions=[Requirement(key=INJECT, operator="NotIn", values=["disabled"])]),
        failure_policy=settings.failure_policy,
        side_effects="None",
        admission_review_versions=["v1"],
        timeout_seconds=TIMEOUT_S,
        # a sidecar stands for the whole pod: what other webhooks add after it needs no second look
        reinvocation_policy="Never",
    )


def _validator(settings: Installation) -> Webhook:
    return Webhook(
        name="validator.meshd.io",
        client_config=_at(settings, VALIDATE_PATH),
        rules=[
            Operations(
                api_groups=["meshd.io"],
                api_versions=["v1"],
                operations=["CREATE", "UPDATE"],
                resources=["services", "workloads"],
                scope="Namespaced",
            )
        ],
        # what nobody looked at, the controllers look at when they read it, and what is not good they do not take
        failure_policy="Ignore",
        side_effects="None",
        admission_review_versions=["v1"],
        timeout_seconds=TIMEOUT_S,
    )


def _at(settings: Installation, path: str) -> ClientConfig:
    return ClientConfig(
        service=ServiceReference(name=INJECTOR, namespace=settings.namespace, path=path, port=443),
    )


def _meshed_namespaces(settings: Installation) -> Expressions:
    """All but those without which there would be no injector to ask: with `failurePolicy: Fail`, a cluster that starts
    could not. And those that their label takes out."""
    without = ["kube-system", "kube-node-lease", settings.namespace]
    return Expressions(
        match_expressions=[
            Requirement(key="kubernetes.io/metadata.name", operator="NotIn", values=without),
            Requirement(key=INJECT, operator="NotIn", values=["disabled"]),
        ]
    )
