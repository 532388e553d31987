"""The kinds that an installation consists of besides pods and Services: held to their types, and nothing becomes of
them. There is no controller of Deployments here: who wants their pods plays them."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.kubernetes.core import wrong_name
from tests.support.kubernetes.kinds import Kind, Object, status_of
from tests.support.kubernetes.refusals import Cause, invalid, required

RBAC, APPS, ADMISSION = "rbac.authorization.k8s.io", "apps", "admissionregistration.k8s.io"


def _wrong(content: Object, _old: Object | None) -> list[Cause]:
    return wrong_name(content, labels_only=False)


def _wrong_role(content: Object, _old: Object | None) -> list[Cause]:
    """Names of roles may have colons, as `system:auth-delegator`."""
    return [] if content["metadata"].get("name") else [required("metadata.name")]


def _wrong_workload(content: Object, old: Object | None) -> list[Cause]:
    causes, spec = _wrong(content, old), content.get("spec", {})
    selected = (spec.get("selector") or {}).get("matchLabels") or {}
    template = spec.get("template", {})
    labels = template.get("metadata", {}).get("labels") or {}
    if not selected:
        causes.append(required("spec.selector"))
    elif not selected.items() <= labels.items():
        message = "`selector` does not match template `labels`"
        causes.append(invalid("spec.template.metadata.labels", "{}", message))
    if old is not None and old["spec"]["selector"] != spec["selector"]:
        causes.append(invalid("spec.selector", "{}", "field is immutable"))
    pod = template.get("spec", {})
    volumes = {each["name"] for each in pod.get("volumes", ())}
    if not pod.get("containers"):
        causes.append(required("spec.template.spec.containers"))
    for index, name in _twice(pod.get("volumes", ()), "name"):
        path = f"spec.template.spec.volumes[{index}].name"
        causes.append(Cause(path, f'Duplicate value: "{name}"', "FieldValueDuplicate"))
    for place in ("initContainers", "containers"):
        for number, container in enumerate(pod.get(place, ())):
            where = f"spec.template.spec.{place}[{number}].volumeMounts"
            for index, path in _twice(container.get("volumeMounts", ()), "mountPath"):
                causes.append(invalid(f"{where}[{index}].mountPath", f'"{path}"', "must be unique"))
            for index, mount in enumerate(container.get("volumeMounts", ())):
                if mount["name"] not in volumes:
                    path = f"{where}[{index}].name"
                    causes.append(Cause(path, f'Not found: "{mount["name"]}"', "FieldValueNotFound"))
    return causes


def _twice(items: Sequence[Object], key: str) -> Iterator[tuple[int, str]]:
    """(place, value) of what was there before."""
    said = [str(each.get(key, "")) for each in items]
    return ((index, each) for index, each in enumerate(said) if each in said[:index])


def _wrong_webhooks(content: Object, old: Object | None) -> list[Cause]:
    causes = _wrong(content, old)
    for number, webhook in enumerate(content.get("webhooks") or ()):
        if webhook.get("name", "").count(".") < 2:
            message = "should be a domain with at least three segments separated by dots"
            causes.append(invalid(f"webhooks[{number}].name", f'"{webhook.get("name", "")}"', message))
    return causes


def _whole_webhooks(content: Object, _old: Object | None) -> None:
    for webhook in content.get("webhooks") or ():
        for name, usual in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("timeoutSeconds", 10)):
            webhook.setdefault(name, usual)
        for name in ("namespaceSelector", "objectSelector"):
            webhook.setdefault(name, {})
        for rule in webhook.get("rules") or ():
            rule.setdefault("scope", "*")


def _whole_mutating(content: Object, old: Object | None) -> None:
    _whole_webhooks(content, old)
    for webhook in content.get("webhooks") or ():
        webhook.setdefault("reinvocationPolicy", "Never")


def _whole_deployment(content: Object, _old: Object | None) -> None:
    spec = content.setdefault("spec", {})
    for name, usual in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
        spec.setdefault(name, usual)
    rolling = spec.setdefault("strategy", {})
    if rolling.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling["rollingUpdate"] = {"maxSurge": "25%", "maxUnavailable": "25%", **(rolling.get("rollingUpdate") or {})}


def _whole_set(content: Object, _old: Object | None) -> None:
    spec = content.setdefault("spec", {})
    for name, usual in (("replicas", 1), ("revisionHistoryLimit", 10), ("podManagementPolicy", "OrderedReady")):
        spec.setdefault(name, usual)
    rolling = spec.setdefault("updateStrategy", {})
    if rolling.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling["rollingUpdate"] = {"partition": 0, **(rolling.get("rollingUpdate") or {})}


SCALE = {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}


def scale_of(workload: Object) -> Object:
    """What is to be seen of it, and changed, as `deployments/scale`."""
    meta = {key: workload["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    spec, status = {"replicas": workload["spec"].get("replicas", 1)}, workload.get("status") or {}
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec,
        "status": {"replicas": status.get("replicas", 0)},
    }  # fmt: skip


def _workload(plural: str, name: str, short: str) -> Kind:
    return Kind(
        plural, name, APPS, short=(short,), categories=("all",), wrong=_wrong_workload, model=f"V1{name}",
        whole=_whole_set if name == "StatefulSet" else _whole_deployment,
        counts_generations=True, subresources=(status_of(plural, name), SCALE | {"name": f"{plural}/scale"}),
    )  # fmt: skip


def _webhooks(plural: str, name: str) -> Kind:
    return Kind(
        plural, name, ADMISSION, namespaced=False, categories=("api-extensions",), wrong=_wrong_webhooks,
        whole=_whole_mutating if name.startswith("Mutating") else _whole_webhooks, model=f"V1{name}",
        counts_generations=True,
    )  # fmt: skip


def _right(plural: str, name: str, namespaced: bool) -> Kind:
    return Kind(plural, name, RBAC, namespaced=namespaced, wrong=_wrong_role, model=f"V1{name}")


MUTATING = _webhooks("mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
VALIDATING = _webhooks("validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
DEPLOYMENTS = _workload("deployments", "Deployment", "deploy")
STATEFUL_SETS = _workload("statefulsets", "StatefulSet", "sts")
JOBS = Kind(
    "jobs", "Job", "batch", categories=("all",), wrong=_wrong, model="V1Job", counts_generations=True,
    subresources=(status_of("jobs", "Job"),),
)  # fmt: skip
CLAIMS = Kind(
    "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), wrong=_wrong, model="V1PersistentVolumeClaim",
    subresources=(status_of("persistentvolumeclaims", "PersistentVolumeClaim"),),
)  # fmt: skip
STORAGE_CLASSES = Kind(
    "storageclasses", "StorageClass", "storage.k8s.io", namespaced=False, short=("sc",), wrong=_wrong,
    model="V1StorageClass",
)  # fmt: skip
LEASES = Kind("leases", "Lease", "coordination.k8s.io", wrong=_wrong, model="V1Lease")
BUDGETS = Kind(
    "poddisruptionbudgets", "PodDisruptionBudget", "policy", short=("pdb",), wrong=_wrong,
    model="V1PodDisruptionBudget", counts_generations=True,
    subresources=(status_of("poddisruptionbudgets", "PodDisruptionBudget"),),
)  # fmt: skip
ACCESS_REVIEWS = Kind(
    "selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io", namespaced=False, verbs=("create",)
)
ROLES, HERE = _right("roles", "Role", True), _right("rolebindings", "RoleBinding", True)
CLUSTER_ROLES = _right("clusterroles", "ClusterRole", False)
EVERYWHERE = _right("clusterrolebindings", "ClusterRoleBinding", False)
"""What binds a role in all namespaces; HERE what does in its own."""

INSTALLED = (
    DEPLOYMENTS, STATEFUL_SETS, JOBS, CLAIMS, STORAGE_CLASSES, LEASES, BUDGETS, MUTATING, VALIDATING, ACCESS_REVIEWS,
    ROLES, HERE, CLUSTER_ROLES, EVERYWHERE,
)  # fmt: skip


def allowed(review: Any, may: bool) -> Object:
    """The answer to a SelfSubjectAccessReview."""
    return {**review, "metadata": {}, "status": {"allowed": may}}
