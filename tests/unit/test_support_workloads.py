"""What a played cluster's controllers want of workloads."""

from typing import Any

from tests.support.kubelet.slices import names_of, slice_of
from tests.support.kubelet.workloads import wanted

Manifest = dict[str, Any]


def workload(kind: str, count: int = 2, image: str = "web:1") -> Manifest:
    return {
        "kind": kind, "apiVersion": "apps/v1",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 3},
        "spec": {
            "replicas": count, "serviceName": "web" if kind == "StatefulSet" else "",
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": image}]}},
        },
    }  # fmt: skip


def run(pod: Manifest, *, ready: bool = True, phase: str = "Running", address: str = "10.0.0.1") -> Manifest:
    """The pod as the API server has it a while later."""
    return {**pod, "status": {
        "phase": phase, "podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}],
    }, "metadata": {**pod["metadata"], "uid": pod["metadata"]["name"]}}  # fmt: skip


def test_pods_of_another_template_go_once_those_of_this_one_are_ready() -> None:
    old = [run(each) for each in wanted("Deployment", workload("Deployment"), []).make]
    assert wanted("Deployment", workload("Deployment"), old).status["availableReplicas"] == 2
    other = workload("Deployment", image="web:2")
    new = wanted("Deployment", other, old).make
    assert len(new) == 2
    starting = [*old, run(new[0]), run(new[1], ready=False)]
    assert (wanted("Deployment", other, starting).make, wanted("Deployment", other, starting).delete) == ([], [])
    assert wanted("Deployment", other, [*old, *map(run, new)]).delete == old
    fewer = wanted("Deployment", workload("Deployment", 1), old)
    assert (fewer.make, fewer.delete) == ([], old[:1])


def test_a_sets_pods_are_made_in_order_and_replaced_against_it() -> None:
    of = workload("StatefulSet")
    (first,) = wanted("StatefulSet", of, []).make
    assert (first["metadata"]["name"], first["spec"]["hostname"], first["spec"]["subdomain"]) == (
        "web-0",
        "web-0",
        "web",
    )
    assert wanted("StatefulSet", of, [run(first, ready=False)]).make == []
    (second,) = wanted("StatefulSet", of, [run(first)]).make
    both = [run(first), run(second)]
    status = wanted("StatefulSet", of, both).status
    assert status["currentRevision"] == status["updateRevision"]
    other = workload("StatefulSet", image="web:2")
    assert wanted("StatefulSet", other, both).delete == [both[1]]
    assert wanted("StatefulSet", other, both).status["currentRevision"] == "another"
    assert wanted("StatefulSet", workload("StatefulSet", 1), both).delete == [both[1]]


def test_a_job_is_complete_when_its_pod_has_succeeded() -> None:
    (pod,) = wanted("Job", workload("Job"), []).make
    under_way = wanted("Job", workload("Job"), [run(pod)])
    assert (under_way.make, "conditions" in under_way.status) == ([], False)
    done = wanted("Job", workload("Job"), [run(pod, ready=False, phase="Succeeded")])
    assert [(each["type"], each["status"]) for each in done.status["conditions"]] == [("Complete", "True")]


def test_a_service_is_its_pods_that_stay() -> None:
    meta = {"name": "web", "namespace": "shop"}
    service = {"metadata": meta, "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80}]}}
    of = workload("StatefulSet")
    first = run(wanted("StatefulSet", of, []).make[0])
    going = run(wanted("StatefulSet", of, [first]).make[0], address="10.0.0.2")
    going["metadata"]["deletionTimestamp"] = "now"
    (endpoint,) = slice_of(service, [first, going])["endpoints"]
    assert (endpoint["addresses"], endpoint["hostname"]) == (["10.0.0.1"], "web-0")
    names = names_of("10.0.0.254", [service], [first, going])
    assert names["web.shop.svc.cluster.local"] == names["web-0.web.shop"] == "10.0.0.1"
    assert "web-1.web.shop" not in names
