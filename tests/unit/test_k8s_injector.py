"""The injector as a function: what a pod gets, by which word it goes, and every reason why it gets nothing."""

import copy
from typing import Any

import pytest
from msgspec.structs import replace

from discovery.kubernetes.objects import Pod
from discovery.kubernetes.pods import facts
from k8s.init.main import parser as init_parser
from k8s.injector import BY_WEBHOOK, Injected, Skipped, Surroundings, inject, version_of
from k8s.settings import ProxySettings
from meshd.api.loading import convert
from tests.support.injections import SETTINGS
from tests.support.kubernetes.models import misfit, unknown
from tests.support.kubernetes.patches import JSON, patched

Body = dict[str, Any]

ENABLED = {"meshd.io/inject": "enabled"}
AROUND = Surroundings("shop", {}, native=True)


def pod(*, annotations: dict[str, str] | None = None, containers: list[Body] | None = None, **spec: Any) -> Body:
    app = {"name": "app", "image": "docker.example/app:1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "annotations": ENABLED if annotations is None else annotations},
        "spec": {"containers": containers or [app], **spec},
    }


def injected(body: Body, around: Surroundings = AROUND, **settings: Any) -> Body:
    """The pod as the patch makes it."""
    said = inject(body, around, replace(SETTINGS, **settings))
    assert isinstance(said, Injected), said
    made: Body = patched(copy.deepcopy(body), said.patch, JSON)
    return made


def why_not(body: Body, around: Surroundings = AROUND, **settings: Any) -> tuple[str, ...]:
    said = inject(body, around, replace(SETTINGS, **settings))
    assert isinstance(said, Skipped)
    return said.reasons


def container(body: Body, name: str) -> Body:
    both = [*body["spec"].get("initContainers", ()), *body["spec"]["containers"]]
    return next(each for each in both if each["name"] == name)


def names(body: Body, kind: str) -> list[str]:
    return [each["name"] for each in body["spec"].get(kind, ())]


def environment(body: Body) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(body, "meshd-proxy")["env"]}


def init_arguments(body: Body) -> dict[str, Any]:
    """What the program of the init container makes of its arguments: it knows every one of them."""
    return vars(init_parser().parse_args(container(body, "meshd-init")["args"]))


# --- what it gets


@pytest.mark.parametrize("native", [True, False])
def test_what_comes_out_is_a_pod(native: bool) -> None:
    proxy = ProxySettings(cpu_request="100m", memory_limit="250Mi", wait_before_exit_seconds=10)
    before = pod(volumes=[{"name": "tmp", "emptyDir": {}}])
    made = injected(before, replace(AROUND, native=native), proxy=proxy)
    assert misfit("V1Pod", made) == ""
    assert unknown("V1Pod", made) == []
    mounted = {
        mount["name"] for name in ("meshd-proxy", "meshd-init") for mount in container(made, name)["volumeMounts"]
    }
    assert mounted < set(names(made, "volumes"))
    for kind in ("containers", "volumes"):  # all that was there is there
        assert [each for each in made["spec"][kind] if each in before["spec"][kind]] == before["spec"][kind]


def test_a_native_sidecar_is_ready_before_the_pods_own_init_containers() -> None:
    made = injected(pod(initContainers=[{"name": "migrate", "image": "m"}]))
    assert names(made, "initContainers") == ["meshd-init", "meshd-proxy", "migrate"]
    proxy = container(made, "meshd-proxy")
    assert (proxy["restartPolicy"], proxy["startupProbe"]["httpGet"]) == ("Always", {"path": "/ready", "port": 4191})
    assert "lifecycle" not in proxy


def test_beside_the_others_it_has_the_application_wait() -> None:
    around = replace(AROUND, native=False)
    made = injected(pod(initContainers=[{"name": "migrate", "image": "m"}]), around)
    assert (names(made, "initContainers"), names(made, "containers")) == (
        ["migrate", "meshd-init"], ["meshd-proxy", "app"]
    )  # fmt: skip
    proxy = container(made, "meshd-proxy")
    assert proxy["lifecycle"]["postStart"]["exec"]["command"][0] == "meshd-await"
    assert "restartPolicy" not in proxy
    made = injected(pod(annotations=ENABLED | {"config.linkerd.io/proxy-await": "disabled"}), around)
    assert names(made, "containers") == ["app", "meshd-proxy"]
    assert "lifecycle" not in container(made, "meshd-proxy")


def test_the_sidecar_may_do_nothing_and_the_rules_may_be_written() -> None:
    made = injected(pod())
    security = container(made, "meshd-proxy")["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "privileged": False,
        "readOnlyRootFilesystem": True, "runAsGroup": 2102, "runAsNonRoot": True, "runAsUser": 2102,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    init = container(made, "meshd-init")["securityContext"]
    assert init["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    assert (init["privileged"], init["allowPrivilegeEscalation"], init["readOnlyRootFilesystem"]) == (
        False,
        False,
        True,
    )


def test_the_token_is_for_the_mesh_alone_and_for_the_sidecar_alone() -> None:
    made = injected(pod(automountServiceAccountToken=False))
    (source,) = next(each for each in made["spec"]["volumes"] if "projected" in each)["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "identity.meshd.io"
    assert made["spec"]["automountServiceAccountToken"] is False
    assert "volumeMounts" not in container(made, "app")
    said = environment(made)
    (mount,) = container(made, "meshd-proxy")["volumeMounts"]
    assert said["MESHD_PROXY_TOKEN_FILE"] == f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"


def test_the_environment_says_who_and_where() -> None:
    made = injected(pod())
    said = environment(made)
    assert said["MESHD_PROXY_CONTROLLER"] == "meshd-controller.meshd.svc.cluster.local:8086"
    assert said["MESHD_PROXY_TRUST_ANCHORS"] == SETTINGS.trust_anchors
    assert said["MESHD_PROXY_POD"] == "$(MESHD_POD_NAMESPACE)/$(MESHD_POD_NAME)"
    order = list(said)
    assert order.index("MESHD_PROXY_POD") > order.index("MESHD_POD_NAME")  # Kubernetes expands what stands before
    assert "MESHD_PROXY_CONTROLLER_IDENTITY" not in said
    said = environment(injected(pod(), namespace="mesh"))
    assert said["MESHD_PROXY_CONTROLLER_IDENTITY"] == "spiffe://prod.example/ns/mesh/sa/meshd-controller"


def test_discovery_takes_it_for_meshed() -> None:
    marks = {
        "config.meshd.io/inbound-port": "5143", "config.linkerd.io/opaque-ports": "3306,4000-4010,sql",
        "meshd.io/inject": "enabled",
    }  # fmt: skip
    ports = [{"name": "app", "image": "a", "ports": [{"name": "sql", "containerPort": 5432}]}]
    made = injected(pod(annotations={}, containers=ports), replace(AROUND, annotations=marks))
    seen = facts(convert(made | {"metadata": made["metadata"] | {"namespace": "shop", "uid": "1"}}, Pod, "pod"))
    assert (seen.account, seen.inbound_port) == ("default", 5143)
    assert [seen.is_opaque(port) for port in (3306, 4005, 5432, 80)] == [True, True, True, False]
    assert made["metadata"]["labels"] == {"meshd.io/control-plane-ns": "meshd", "meshd.io/workload-ns": "shop"}
    assert init_arguments(made)["inbound_port"] == 5143


def test_what_it_says_of_itself_it_does_not_say_twice() -> None:
    marks = ENABLED | {"config.linkerd.io/opaque-ports": "3306", "config.linkerd.io/inbound-port": "5143"}
    made = injected(pod(annotations=marks))["metadata"]["annotations"]
    assert "config.meshd.io/opaque-ports" not in made
    assert "config.meshd.io/inbound-port" not in made


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("meshd:1.2", "1.2"), ("registry.example:5000/a/meshd:1", "1"), ("registry.example:5000/meshd", "latest"),
        ("meshd:1@sha256:abc", "sha256:abc"),
    ],
)  # fmt: skip
def test_the_version_is_the_images(image: str, version: str) -> None:
    made = injected(pod(annotations=ENABLED | {"config.meshd.io/image": image}))
    assert container(made, "meshd-init")["image"] == container(made, "meshd-proxy")["image"] == image
    assert made["metadata"]["annotations"]["meshd.io/proxy-version"] == version == version_of(image)
    assert made["metadata"]["annotations"]["meshd.io/created-by"].startswith(BY_WEBHOOK)


def test_annotations_that_reach_the_containers() -> None:
    marks = {
        "config.meshd.io/proxy-cpu-request": "10m", "config.linkerd.io/proxy-cpu-limit": "1",
        "config.meshd.io/proxy-memory-request": "32Mi", "config.meshd.io/proxy-memory-limit": "64Mi",
        "config.meshd.io/proxy-uid": "3000", "config.linkerd.io/image-pull-policy": "Always",
        "config.meshd.io/skip-inbound-ports": "9100, 8000-8010", "config.meshd.io/skip-outbound-ports": "",
        "config.alpha.linkerd.io/proxy-wait-before-exit-seconds": "5",
        "config.beta.linkerd.io/proxy-enable-native-sidecar": "false",
    }  # fmt: skip
    made = injected(pod(annotations=ENABLED | marks))
    proxy = container(made, "meshd-proxy")
    assert proxy["resources"] == {
        "limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "32Mi"}
    }  # fmt: skip
    assert (proxy["securityContext"]["runAsUser"], proxy["imagePullPolicy"]) == (3000, "Always")
    assert "restartPolicy" not in proxy
    assert proxy["lifecycle"]["preStop"]["exec"]["command"] == ["meshd-await", "--sleep=5s"]
    said = init_arguments(made)
    assert said["proxy_uid"] == 3000
    assert (said["skip_inbound_ports"], said["skip_outbound_ports"]) == (((8000, 8010), (9100, 9100)), ())


@pytest.mark.parametrize(
    ("mark", "value", "level"),
    [
        ("config.meshd.io/proxy-log-level", "debug", "debug"),
        ("config.linkerd.io/proxy-log-level", "warn,linkerd=info", "warning"),
        ("config.linkerd.io/proxy-log-level", "linkerd=debug", "info"),
    ],
)
def test_the_level_of_the_log(mark: str, value: str, level: str) -> None:
    assert environment(injected(pod(annotations=ENABLED | {mark: value})))["MESHD_PROXY_LOG"] == level


def test_whose_word_counts() -> None:
    word = "proxy-uid"
    places = [
        ({"config.meshd.io/" + word: "1001"}, {}), ({"config.linkerd.io/" + word: "1002"}, {}),
        ({}, {"config.meshd.io/" + word: "1003"}), ({}, {"config.linkerd.io/" + word: "1004"}),
    ]  # fmt: skip
    seen = []
    while places:
        own, spaces = ({key: value for place in places for key, value in place[side].items()} for side in (0, 1))
        made = injected(pod(annotations=ENABLED | own), replace(AROUND, annotations=spaces))
        seen.append(container(made, "meshd-proxy")["securityContext"]["runAsUser"])
        places.pop(0)
    assert seen == [1001, 1002, 1003, 1004]


# --- whether it is asked for

ASKED = 'neither the namespace nor the pod have the annotation "meshd.io/inject:enabled"'
OUT = 'pod has the annotation "meshd.io/inject:disabled"'


@pytest.mark.parametrize(
    ("own", "spaces", "by_hand", "reason"),
    [
        ("", "", False, ASKED), ("", "enabled", False, ""), ("enabled", "", False, ""),
        ("enabled", "disabled", False, ""),
        ("disabled", "enabled", False, OUT), ("disabled", "", False, OUT),
        ("", "disabled", False, 'the namespace has the annotation "meshd.io/inject:disabled"'),
        ("", "", True, ""), ("disabled", "", True, OUT),
    ],
)  # fmt: skip
def test_whether_it_is_asked_for(own: str, spaces: str, by_hand: bool, reason: str) -> None:
    for prefix in ("meshd.io", "linkerd.io"):
        around = replace(AROUND, annotations={f"{prefix}/inject": spaces} if spaces else {}, asked=by_hand)
        said = inject(pod(annotations={f"{prefix}/inject": own} if own else {}), around, SETTINGS)
        if reason:
            assert isinstance(said, Skipped)
            assert not said.refused  # nobody is to be warned of it
            assert said.reasons in ((reason,), (reason.replace("meshd.io", prefix),))
        else:
            assert isinstance(said, Injected)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ingress", 'annotation "meshd.io/inject:ingress" at workload: there is no ingress mode'),
        (
            "true",
            "invalid value for annotation \"meshd.io/inject\" at workload: found 'true'; expected enabled or disabled",
        ),
    ],
)
@pytest.mark.parametrize("by_hand", [True, False])
def test_what_can_only_be_a_slip(value: str, said: str, by_hand: bool) -> None:
    found = inject(pod(annotations={"meshd.io/inject": value}), replace(AROUND, asked=by_hand), SETTINGS)
    assert isinstance(found, Skipped)
    assert found.refused
    assert found.reasons[0].startswith(said)


# --- why not


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"hostNetwork": True}, "hostNetwork is enabled"),
        ({"initContainers": [{"name": "istio-init"}]}, "pod has a sidecar injected already"),
        ({"containers": [{"name": "app"}, {"name": "linkerd-proxy"}]}, "pod has a sidecar injected already"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "its nodes run Windows"),
        ({"os": {"name": "windows"}}, "its nodes run Windows"),
        ({"serviceAccountName": "web.v2"}, "the service account 'web.v2' is not a DNS label"),
        ({"securityContext": {"runAsUser": 2102}}, "container 'app' runs as the sidecar's user 2102"),
        (
            {"containers": [{"name": "a", "securityContext": {"runAsUser": 2102}}]},
            "container 'a' runs as the sidecar's",
        ),
        ({"containers": [{"name": "a", "ports": [{"containerPort": 4143}]}]}, "container 'a' listens on 4143"),
        ({"containers": "app"}, "not a pod: spec.containers: expected"),
    ],
)
def test_reasons(spec: Body, reason: str) -> None:
    (found,) = why_not(pod() | {"spec": {"containers": [{"name": "app"}], **spec}})
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("mark", "value", "expected"),
    [
        ("config.meshd.io/skip-inbound-ports", "80,http", "found 'http'; expected ports and ranges"),
        ("config.linkerd.io/opaque-ports", "80,SQL!", "found 'SQL!'; expected ports and ranges"),
        ("config.meshd.io/proxy-cpu-limit", "1 core", "found '1 core'; expected a quantity"),
        ("config.meshd.io/proxy-log-level", "warn", "found 'warn'; expected debug, info, warning or error"),
        ("config.meshd.io/image", "", "found ''; expected the name of an image"),
        ("config.meshd.io/image-pull-policy", "always", "found 'always'; expected Always, IfNotPresent or Never"),
        ("config.meshd.io/proxy-uid", "0", "found '0'; expected a user's number, from 1 to 2147483647"),
        ("config.meshd.io/proxy-await", "yes", "found 'yes'; expected true, enabled, false or disabled"),
        ("config.meshd.io/wait-before-exit-seconds", "20s", "found '20s'; expected whole seconds, from 0 to 3600"),
        ("config.meshd.io/inbound-port", "65536", "found '65536'; expected a port, from 1 to 65535"),
        ("config.meshd.io/native-sidecar", "auto", "found 'auto'; expected true"),
    ],
)
def test_an_annotation_that_cannot_be_meant(mark: str, value: str, expected: str) -> None:
    (own,) = why_not(pod(annotations=ENABLED | {mark: value}))
    assert own.startswith(f"annotation {mark}: {expected}")
    (spaces,) = why_not(pod(), replace(AROUND, annotations={mark: value}))
    assert spaces.startswith(f"annotation {mark} of the namespace: {expected}")


def test_a_port_that_no_container_calls_so() -> None:
    """A slip on the pod itself; on a namespace it is for other pods, and Linkerd passes it over."""
    (found,) = why_not(pod(annotations=ENABLED | {"config.meshd.io/opaque-ports": "80,sql"}))
    assert "found 'sql'" in found
    injected(pod(annotations=ENABLED | {"config.linkerd.io/opaque-ports": "80,sql"}))
    made = injected(pod(), replace(AROUND, annotations={"config.meshd.io/opaque-ports": "80,sql"}))
    assert made["metadata"]["annotations"]["config.meshd.io/opaque-ports"] == "80,sql"


def test_an_empty_quantity_is_none() -> None:
    made = injected(
        pod(annotations=ENABLED | {"config.linkerd.io/proxy-cpu-limit": ""}), proxy=ProxySettings(cpu_limit="1")
    )
    assert "resources" not in container(made, "meshd-proxy")


def test_all_reasons_are_said_at_once() -> None:
    marks = ENABLED | {"config.meshd.io/proxy-uid": "x", "config.meshd.io/inbound-port": "x"}
    found = why_not(pod(annotations=marks, hostNetwork=True))
    assert len(found) == 3


def test_more_requested_than_the_limit_allows() -> None:
    marks = ENABLED | {"config.meshd.io/proxy-cpu-request": "2"}
    (found,) = why_not(pod(annotations=marks), proxy=ProxySettings(cpu_limit="1"))
    assert "found a CPU request of 2 and a limit of 1" in found


def test_no_sidecar_that_could_trust_nobody() -> None:
    (found,) = why_not(pod(), trust_anchors="")
    assert "no trust anchors" in found


def test_an_inbound_port_that_is_the_outbound_one() -> None:
    (found,) = why_not(pod(annotations=ENABLED | {"config.meshd.io/inbound-port": "4140"}))
    assert "found (4140, 4140, 4191); expected three of their own" in found


# --- notes


def notes(body: Body, **around: Any) -> tuple[str, ...]:
    said = inject(body, replace(AROUND, **around), SETTINGS)
    assert isinstance(said, Injected)
    return said.notes


def test_notes() -> None:
    udp = [{"name": "dns", "ports": [{"containerPort": 53, "protocol": "UDP"}]}]
    assert notes(pod(containers=udp))[0].startswith("UDP port(s) configured on pod spec")
    assert notes(pod(restartPolicy="OnFailure"), native=True) == ()
    assert "the command of a Job has to end it" in notes(pod(restartPolicy="Never"), native=False)[0]
    waits = ENABLED | {"config.meshd.io/wait-before-exit-seconds": "30"}
    assert "is killed before that" in notes(pod(annotations=waits))[0]
    assert notes(pod(annotations=waits, terminationGracePeriodSeconds=60)) == ()


@pytest.mark.parametrize(
    ("restart", "native", "told"), [("Never", False, True), ("Never", True, False), ("Always", False, False)]
)
def test_only_a_job_may_end_its_sidecar(restart: str, native: bool, told: bool) -> None:
    made = injected(pod(restartPolicy=restart), replace(AROUND, native=native))
    assert ("MESHD_PROXY_SHUTDOWN_ENDPOINT" in environment(made)) is told
