"""The settings of this back end."""

from typing import Annotated

from msgspec import Meta, Struct

from discovery.backends import Place
from discovery.kubernetes.names import CLUSTER_DOMAIN, ServiceKey
from discovery.registry import Registry
from discovery.store import DocumentStore, Kinds
from meshd.api.names import check_label, is_trust_domain


class KubernetesDocuments(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The mesh's documents as custom resources."""

    kinds: Kinds = ("Service",)
    namespace: Annotated[str, Meta(description="The only namespace they are taken from; when empty, all.")] = ""
    labels: Annotated[
        str, Meta(description="A label selector, as in `meshd.io/node=vm1`: only objects that it selects are taken.")
    ] = ""

    def __post_init__(self) -> None:
        if self.namespace:
            check_label(self.namespace, "namespace")


class KubernetesDiscovery(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The Services of one cluster."""

    kubeconfig: Annotated[
        str,
        Meta(
            description="The file that says where the API server is and who asks (the agent's user reads it); when "
            "empty, the service account of the pod that the agent runs in."
        ),
    ] = ""
    context: Annotated[str, Meta(description="Which context of `kubeconfig`; when empty, its current one.")] = ""
    cluster_domain: Annotated[
        str, Meta(description="What names of the cluster end with, besides `cluster.local`, as in `k8s.example`.")
    ] = CLUSTER_DOMAIN

    external_workloads: Annotated[
        bool,
        Meta(
            description="Whether `Workload` objects of that cluster with `external` are endpoints of its Services: "
            "hosts outside it. It takes the right to list and watch `workloads.meshd.io`."
        ),
    ] = False
    config: Annotated[
        KubernetesDocuments | None,
        Meta(
            description="The mesh's documents in that cluster, as custom resources; when absent, none are read there."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.kubeconfig and not self.kubeconfig.startswith("/"):
            raise ValueError(f"kubeconfig: {self.kubeconfig!r} is relative: it must begin with /")
        if self.context and not self.kubeconfig:
            raise ValueError("context: there is no `kubeconfig` for it to be in")
        if not is_trust_domain(self.cluster_domain):
            raise ValueError(f"clusterDomain: {self.cluster_domain!r} is not DNS labels joined by dots")

    def registry(self, place: Place) -> Registry[ServiceKey]:
        from discovery.kubernetes.registry import KubernetesRegistry  # noqa: PLC0415 - for agents that use it alone

        return KubernetesRegistry(self, place)

    def documents(self, place: Place) -> DocumentStore | None:
        from discovery.kubernetes.documents import KubernetesDocumentStore  # noqa: PLC0415 - the same

        return None if self.config is None else KubernetesDocumentStore(self, self.config, place)
