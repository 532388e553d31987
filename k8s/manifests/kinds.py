"""The kinds of the Kubernetes API that are printed, as far as they are used, as types: a field that is misspelt is no
manifest, and what is printed has the order that is written here.

A field that says nothing (its default) is left out. `manifest` makes plain values of an object, `k8s.manifests.text`
YAML of those. The names and their meaning are the API's own (https://kubernetes.io/docs/reference/kubernetes-api/).
"""

from typing import Any

import msgspec
from msgspec import Struct

Labels = dict[str, str]
Quantities = dict[str, str]


class _Part(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A part of an object."""


class Metadata(_Part, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    labels: Labels = {}
    annotations: dict[str, str] = {}


class Object(_Part, frozen=True, kw_only=True):
    """`api_version` and `kind` come first, then metadata, then what is the kind's own."""

    api_version: str
    kind: str
    metadata: Metadata


# --- rights


class Rule(_Part, frozen=True, kw_only=True):
    """Of a role. Why it is needed is said where it is made."""

    api_groups: list[str]
    resources: list[str]
    resource_names: list[str] = []
    verbs: list[str]


class Subject(_Part, frozen=True, kw_only=True):
    kind: str
    name: str
    namespace: str


class RoleRef(_Part, frozen=True, kw_only=True):
    api_group: str
    kind: str
    name: str


class Role(Object, frozen=True, kw_only=True):
    """Also a ClusterRole."""

    rules: list[Rule]


class RoleBinding(Object, frozen=True, kw_only=True):
    """Also a ClusterRoleBinding."""

    role_ref: RoleRef
    subjects: list[Subject]


class ServiceAccount(Object, frozen=True, kw_only=True):
    automount_service_account_token: bool | None = None


# --- what is configured


class ConfigMap(Object, frozen=True, kw_only=True):
    data: dict[str, str] = {}


class Secret(Object, frozen=True, kw_only=True):
    type: str
    data: dict[str, str] = {}
    """Base64."""


class ClaimResources(_Part, frozen=True, kw_only=True):
    requests: Quantities


class ClaimSpec(_Part, frozen=True, kw_only=True):
    access_modes: list[str]
    storage_class_name: str = ""
    resources: ClaimResources


class PersistentVolumeClaim(Object, frozen=True, kw_only=True):
    spec: ClaimSpec


# --- pods


class ObjectField(_Part, frozen=True, kw_only=True):
    field_path: str


class ValueFrom(_Part, frozen=True, kw_only=True):
    field_ref: ObjectField


class Env(_Part, frozen=True, kw_only=True):
    name: str
    value: str = ""
    value_from: ValueFrom | None = None


class Mount(_Part, frozen=True, kw_only=True):
    name: str
    mount_path: str
    read_only: bool | None = None


class ContainerPort(_Part, frozen=True, kw_only=True):
    name: str
    container_port: int


class HttpGet(_Part, frozen=True, kw_only=True):
    path: str
    port: str


class Probe(_Part, frozen=True, kw_only=True):
    http_get: HttpGet
    period_seconds: int | None = None
    timeout_seconds: int | None = None
    failure_threshold: int | None = None


class Capabilities(_Part, frozen=True, kw_only=True):
    drop: list[str] = []


class SeccompProfile(_Part, frozen=True, kw_only=True):
    type: str


class SecurityContext(_Part, frozen=True, kw_only=True):
    """Of a container."""

    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None
    read_only_root_filesystem: bool | None = None
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    seccomp_profile: SeccompProfile | None = None


class PodSecurityContext(_Part, frozen=True, kw_only=True):
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    run_as_non_root: bool | None = None
    seccomp_profile: SeccompProfile | None = None


class Resources(_Part, frozen=True, kw_only=True):
    limits: Quantities = {}
    requests: Quantities = {}


class Container(_Part, frozen=True, kw_only=True):
    name: str
    image: str
    image_pull_policy: str = ""
    command: list[str] = []
    args: list[str] = []
    env: list[Env] = []
    ports: list[ContainerPort] = []
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    resources: Resources = Resources()
    security_context: SecurityContext | None = None
    volume_mounts: list[Mount] = []


class KeyToPath(_Part, frozen=True, kw_only=True):
    key: str
    path: str


class ConfigMapVolume(_Part, frozen=True, kw_only=True):
    name: str
    items: list[KeyToPath] = []


class SecretVolume(_Part, frozen=True, kw_only=True):
    secret_name: str
    default_mode: int | None = None


class ClaimVolume(_Part, frozen=True, kw_only=True):
    claim_name: str


class EmptyDir(_Part, frozen=True, kw_only=True):
    """`omit_defaults` leaves nothing of it, and nothing is what it is."""

    medium: str = ""


class TokenProjection(_Part, frozen=True, kw_only=True):
    audience: str
    expiration_seconds: int
    path: str


class Projection(_Part, frozen=True, kw_only=True):
    service_account_token: TokenProjection | None = None


class ProjectedVolume(_Part, frozen=True, kw_only=True):
    default_mode: int | None = None
    sources: list[Projection]


class Volume(_Part, frozen=True, kw_only=True):
    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    projected: ProjectedVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    empty_dir: EmptyDir | None = None


class Selector(_Part, frozen=True, kw_only=True):
    match_labels: Labels


class SpreadTerm(_Part, frozen=True, kw_only=True):
    label_selector: Selector
    topology_key: str


class WeightedTerm(_Part, frozen=True, kw_only=True):
    weight: int
    pod_affinity_term: SpreadTerm


class AntiAffinity(_Part, frozen=True, kw_only=True):
    preferred_during_scheduling_ignored_during_execution: list[WeightedTerm] = []
    required_during_scheduling_ignored_during_execution: list[SpreadTerm] = []


class Affinity(_Part, frozen=True, kw_only=True):
    pod_anti_affinity: AntiAffinity


class PodSpec(_Part, frozen=True, kw_only=True):
    service_account_name: str
    automount_service_account_token: bool | None = None
    priority_class_name: str = ""
    node_selector: Labels = {}
    affinity: Affinity | None = None
    security_context: PodSecurityContext | None = None
    termination_grace_period_seconds: int | None = None
    init_containers: list[Container] = []
    containers: list[Container]
    volumes: list[Volume] = []


class PodTemplate(_Part, frozen=True, kw_only=True):
    metadata: Metadata
    spec: PodSpec


# --- what runs pods


class RollingUpdate(_Part, frozen=True, kw_only=True):
    max_surge: int | None = None
    max_unavailable: int | None = None


class Strategy(_Part, frozen=True, kw_only=True):
    type: str
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(_Part, frozen=True, kw_only=True):
    replicas: int
    selector: Selector
    strategy: Strategy
    template: PodTemplate


class Deployment(Object, frozen=True, kw_only=True):
    spec: DeploymentSpec


class StatefulSetSpec(_Part, frozen=True, kw_only=True):
    replicas: int
    pod_management_policy: str
    service_name: str
    selector: Selector
    template: PodTemplate


class StatefulSet(Object, frozen=True, kw_only=True):
    spec: StatefulSetSpec


class BudgetSpec(_Part, frozen=True, kw_only=True):
    max_unavailable: int
    selector: Selector


class PodDisruptionBudget(Object, frozen=True, kw_only=True):
    spec: BudgetSpec


# --- how they are reached


class ServicePort(_Part, frozen=True, kw_only=True):
    name: str
    port: int
    target_port: str


class ServiceSpec(_Part, frozen=True, kw_only=True):
    type: str = ""
    ip_family_policy: str = ""
    selector: Labels
    ports: list[ServicePort]


class Service(Object, frozen=True, kw_only=True):
    spec: ServiceSpec


# --- webhooks


class ServiceReference(_Part, frozen=True, kw_only=True):
    name: str
    namespace: str
    path: str
    port: int


class ClientConfig(_Part, frozen=True, kw_only=True):
    service: ServiceReference
    ca_bundle: str = ""


class Requirement(_Part, frozen=True, kw_only=True):
    key: str
    operator: str
    values: list[str] = []


class Expressions(_Part, frozen=True, kw_only=True):
    match_expressions: list[Requirement]


class Operations(_Part, frozen=True, kw_only=True):
    api_groups: list[str]
    api_versions: list[str]
    operations: list[str]
    resources: list[str]
    scope: str


class Webhook(_Part, frozen=True, kw_only=True):
    name: str
    client_config: ClientConfig
    rules: list[Operations]
    namespace_selector: Expressions | None = None
    object_selector: Expressions | None = None
    failure_policy: str
    side_effects: str
    admission_review_versions: list[str]
    timeout_seconds: int
    reinvocation_policy: str = ""


class WebhookConfiguration(Object, frozen=True, kw_only=True):
    """Mutating or validating."""

    webhooks: list[Webhook]


def manifest(made: Object) -> dict[str, Any]:
    """The object as plain values, in the order of its fields."""
    found = msgspec.to_builtins(made)
    assert isinstance(found, dict)
    return found
