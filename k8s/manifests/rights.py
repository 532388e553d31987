"""Who may do what: a service account for each component, with as few rights as it does with.

Nobody may write what others run, nor read Secrets but one of its own by name. Each rule says why it is there.
"""

from collections.abc import Iterator

from k8s.manifests.common import of_cluster, of_namespace
from k8s.manifests.kinds import Object, Role, RoleBinding, RoleRef, Rule, ServiceAccount, Subject
from k8s.settings import CA, CONTROLLER, INJECTOR, Installation
from meshd.ca.objects.records import PLURAL

RBAC = "rbac.authorization.k8s.io"
INJECTOR_SECRET = f"{INJECTOR}-tls"
"""The webhook's serving certificate, which the controllers make, share and renew."""

_READ = ["get", "list", "watch"]


def accounts(settings: Installation) -> Iterator[Object]:
    for name in (CONTROLLER, CA):
        yield ServiceAccount(api_version="v1", kind="ServiceAccount", metadata=of_namespace(settings, name))


def rights(settings: Installation) -> Iterator[Object]:
    """Roles and to whom they are bound."""
    yield from _everywhere(settings, CONTROLLER, _controller())
    yield from _here(settings, CONTROLLER, _controller_here())
    yield from _everywhere(settings, CA, _authority())
    if settings.ca.storage == "kubernetes":
        yield from _here(settings, CA, _authority_here())


def _controller() -> list[Rule]:
    return [
        # where services and their endpoints are, followed while sidecars ask for them
        Rule(api_groups=[""], resources=["services"], verbs=_READ),
        Rule(api_groups=["discovery.k8s.io"], resources=["endpointslices"], verbs=_READ),
        # which endpoints are meshed, whose pod an address is, and what a pod that attaches says in its annotations
        Rule(api_groups=[""], resources=["pods"], verbs=["get", "list"]),
        # the zone of a pod that attaches
        Rule(api_groups=[""], resources=["nodes"], verbs=["get"]),
        # what namespaces say in annotations: whether and how their pods are injected
        Rule(api_groups=[""], resources=["namespaces"], verbs=_READ),
        # the mesh's documents, which configure sidecars
        Rule(api_groups=["meshd.io"], resources=["services", "workloads"], verbs=["list", "watch"]),
        # whether the token that a sidecar shows before it has a certificate is its pod's
        Rule(api_groups=["authentication.k8s.io"], resources=["tokenreviews"], verbs=["create"]),
        # the injector's own certificate is told to the API server in these two objects, and in no others
        Rule(
            api_groups=["admissionregistration.k8s.io"],
            resources=["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            resource_names=[INJECTOR],
            verbs=["get", "patch"],
        ),
    ]


def _controller_here() -> list[Rule]:
    return [
        # the injector's certificate and key, which all controllers have to have; the Secret is made by `install`,
        # empty, since a right to create could not be for one name alone
        Rule(api_groups=[""], resources=["secrets"], resource_names=[INJECTOR_SECRET], verbs=["get", "update"]),
    ]


def _authority() -> list[Rule]:
    return [
        # which pod's token it is that asks for a certificate
        Rule(api_groups=["authentication.k8s.io"], resources=["tokenreviews"], verbs=["create"]),
    ]


def _authority_here() -> list[Rule]:
    return [
        # what the CAs remember: a kind of its own, since nobody could be let at some Secrets or ConfigMaps alone who
        # is to make them and to list them
        Rule(api_groups=["meshd.io"], resources=[PLURAL], verbs=["get", "list", "create", "update", "delete"]),
    ]


def _everywhere(settings: Installation, account: str, rules: list[Rule]) -> Iterator[Object]:
    meta = of_cluster(settings, account)
    yield Role(api_version=f"{RBAC}/v1", kind="ClusterRole", metadata=meta, rules=rules)
    yield RoleBinding(
        api_version=f"{RBAC}/v1",
        kind="ClusterRoleBinding",
        metadata=meta,
        role_ref=RoleRef(api_group=RBAC, kind="ClusterRole", name=meta.name),
        subjects=[_account(settings, account)],
    )


def _here(settings: Installation, account: str, rules: list[Rule]) -> Iterator[Object]:
    meta = of_namespace(settings, account)
    yield Role(api_version=f"{RBAC}/v1", kind="Role", metadata=meta, rules=rules)
    yield RoleBinding(
        api_version=f"{RBAC}/v1",
        kind="RoleBinding",
        metadata=meta,
        role_ref=RoleRef(api_group=RBAC, kind="Role", name=account),
        subjects=[_account(settings, account)],
    )


def _account(settings: Installation, name: str) -> Subject:
    return Subject(kind="ServiceAccount", name=name, namespace=settings.namespace)
