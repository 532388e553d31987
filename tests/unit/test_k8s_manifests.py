"""Manifests as texts: what is put in, that nothing else changes, and that it can be taken out without a trace."""

import json
from typing import Any

import pytest
import yaml

from k8s.injector.manifests import injected, uninjected
from k8s.settings import Installation
from meshd.api.loading import ConfigurationError
from tests.support import injections
from tests.support.injections import SETTINGS
from tests.support.kubernetes.models import misfit, unknown

DEPLOYMENT = """\
# a comment
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # its name
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        # the app
        - name: app
          image: "a:1"   # pinned
          args: [ "a" ]
"""
PLAIN: dict[str, Any] = yaml.safe_load(DEPLOYMENT)


def without(text: str, line: str, instead: str = "") -> str:
    assert line in text
    return text.replace(line, instead)


LABELS = "      labels: {app: web}\n"
CONTAINERS = DEPLOYMENT[DEPLOYMENT.index("      containers:") :]

TEXTS = {
    "as people write it": DEPLOYMENT,
    "no last line end": DEPLOYMENT.rstrip(),
    "line ends of Windows": DEPLOYMENT.replace("\n", "\r\n"),
    "line ends of Windows, and no last one": DEPLOYMENT.rstrip().replace("\n", "\r\n"),
    "lists at the end, and no last line end": DEPLOYMENT + "      volumes:\n      - name: a",
    "a byte order mark": "\ufeff" + DEPLOYMENT,
    "several documents": f"---\n{DEPLOYMENT}---\n# nothing\n---\n{DEPLOYMENT}...\n",
    "no metadata": without(DEPLOYMENT, f"    metadata:\n{LABELS}"),
    "metadata of nothing": without(DEPLOYMENT, LABELS),
    "metadata of nothing, commented": without(DEPLOYMENT, f"    metadata:\n{LABELS}", "    metadata:   # later\n"),
    "empty metadata": without(DEPLOYMENT, f"    metadata:\n{LABELS}", "    metadata: {}\n"),
    "metadata written as null": without(DEPLOYMENT, f"    metadata:\n{LABELS}", "    metadata: null # none\n"),
    "annotations of nothing": without(DEPLOYMENT, LABELS, "      annotations:\n" + LABELS),
    "annotations of nothing at the end": without(DEPLOYMENT, LABELS, LABELS + "      annotations:\n"),
    "empty annotations": without(DEPLOYMENT, LABELS, LABELS + "      annotations: { }  # none\n"),
    "annotations written as null": without(DEPLOYMENT, LABELS, "      annotations: null\n"),
    "annotations written as ~": without(DEPLOYMENT, LABELS, "      annotations: ~   # none\n"),
    "annotations": without(DEPLOYMENT, LABELS, "      annotations:\n        # one\n        a: b  # c\n        # two\n"),
    "annotations in braces": without(DEPLOYMENT, LABELS, "      annotations: {a: b, c: 'd'}\n"),
    "a block of text at the end": DEPLOYMENT + "          command:\n          - |\n            sleep 1\n\n",
    "a kept block of text at the end": DEPLOYMENT
    + "          command:\n          - |+\n            sleep 1\n\n\n---\n",
    "volumes and init containers": DEPLOYMENT
    + "      volumes:\n      - name: a\n        emptyDir: {}\n      initContainers:\n      # one\n      - name: i\n",
    "volumes of nothing": without(
        DEPLOYMENT, CONTAINERS, "      volumes:\n" + CONTAINERS + "      initContainers: []\n"
    ),
    "lists in brackets": without(
        DEPLOYMENT, CONTAINERS, "      containers: [{name: a}, {name: b}]\n      volumes: [ ]\n"
    ),
    "all in braces": "kind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a}]}\n",
    "quoted keys": without(DEPLOYMENT, "    metadata:", '    "metadata":'),
    "an anchor on annotations": without(DEPLOYMENT, LABELS, "      annotations: &said\n        a: b\n" + LABELS),
    "anchors on lists and their items": without(DEPLOYMENT, "containers:", "containers: &all").replace(
        "- name: app", "- &app\n          name: app"
    )
    + "      volumes: &none\n      - name: a\n",
    "aliases at the end": without(DEPLOYMENT, "spec:\n  template", "x: &l {app: web}\nspec:\n  template").replace(
        CONTAINERS, CONTAINERS + "      nodeSelector: *l  # everywhere\n"
    ),
    "aliases in braces": "kind: Pod\nmetadata: {name: &n web, namespace: *n}\n"
    "spec: {containers: [{name: a}], nodeName: *n}\n",
    "JSON": json.dumps(PLAIN),
    "dense JSON": json.dumps(PLAIN, separators=(",", ":")),
    "JSON of two": json.dumps(PLAIN, indent=2),
    "JSON of four": json.dumps({"kind": "List", "items": [PLAIN, {"kind": "List", "items": [PLAIN]}]}, indent=4) + "\n",
    "JSON with nulls": json.dumps(
        {"kind": "Pod", "metadata": {"annotations": None}, "spec": {"containers": [{"name": "a"}], "volumes": None}}
    ),
}


LAUGHS = "c0: &c0 [a, a]\n" + "".join(f"c{n}: &c{n} [*c{n - 1}, *c{n - 1}]\n" for n in range(1, 30))
"""Aliases that stand for a thousand million values."""


def test_labels_that_are_an_alias_stay_one() -> None:
    text = without(DEPLOYMENT, LABELS, "      labels: *web\n").replace(
        "spec:\n  template", "spec:\n  selector:\n    matchLabels: &web\n      app: web\n  template"
    )
    made, _ = injected(text, "web.yaml", None)
    assert made == without(
        text, "labels: *web\n", "labels: *web\n      annotations:\n        meshd.io/inject: enabled\n"
    )
    assert uninjected(made, "web.yaml")[0] == text
    shared = r"`labels` \(line \d+\) and `matchLabels` \(line \d+\) are one part"
    with pytest.raises(ConfigurationError, match=shared):
        injected(text, "web.yaml", SETTINGS)


def sidecars(text: str) -> int:
    return text.count("/var/run/secrets/meshd.io/token/token")


@pytest.mark.parametrize("way", ["annotated", "native", "beside"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_put_in_is_taken_out_without_a_trace(name: str, way: str) -> None:
    text, (settings, native) = TEXTS[name], injections.WAYS[way]
    made, outcomes = injected(text, name, settings, native=native)
    wanted = sum(each.done for each in outcomes)
    assert wanted
    assert (made.count("meshd.io/inject") if settings is None else sidecars(made)) == wanted
    assert uninjected(made, name)[0] == text
    untouched = set(text.splitlines()) & set(made.splitlines())
    assert "\n" not in text or len(untouched) >= len(set(text.splitlines())) - 3


@pytest.mark.parametrize(("name", "way"), injections.CASES)
def test_the_golden_files(name: str, way: str) -> None:
    golden = injections.golden(name, way).read_text(encoding="utf-8")
    assert injections.made(name, way) == golden, "make goldens, and read what became different"
    assert uninjected(golden, name)[0] == injections.manifest(name)


@pytest.mark.parametrize("way", ["native", "beside"])
@pytest.mark.parametrize("name", ["votes.yaml", "store.yaml"])
def test_what_comes_out_is_of_the_apis_types(name: str, way: str) -> None:
    settings, native = injections.WAYS[way]
    made, _ = injected(injections.manifest(name), name, settings, native=native)
    for each in yaml.safe_load_all(made):
        model = f"V1{each['kind']}"
        assert (misfit(model, each), unknown(model, each)) == ("", [])


@pytest.mark.parametrize(
    "kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob", "Pod"]
)
def test_every_kind_of_workload(kind: str) -> None:
    template: dict[str, Any] = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}}
    body = template
    if kind != "Pod":
        body = {"metadata": {"name": "web"}, "spec": {"template": template}}
    if kind == "CronJob":
        body = {"metadata": {"name": "web"}, "spec": {"jobTemplate": body}}
    text = yaml.safe_dump({"kind": kind, **body})
    made, (outcome,) = injected(text, "text", SETTINGS)
    assert (outcome.resource, outcome.done, sidecars(made)) == (f"{kind.lower()}/web", True, 1)
    assert uninjected(made, "text")[0] == text


def test_a_namespace_is_annotated_and_nothing_else_is_touched() -> None:
    text = "kind: Namespace\nmetadata: {name: shop}\n---\nkind: Service\nmetadata: {name: web}\n---\na: b\n"
    made, outcomes = injected(text, "text", None)
    assert [(each.kind, each.done, each.refused) for each in outcomes] == [
        ("namespace", True, False), ("service", False, False), ("", False, False)
    ]  # fmt: skip
    first, *rest = yaml.safe_load_all(made)
    assert first["metadata"]["annotations"] == {"meshd.io/inject": "enabled"}
    assert rest == [*yaml.safe_load_all(text)][1:]
    assert injected(text, "text", SETTINGS)[0] == text


def test_again_it_changes_nothing() -> None:
    once, _ = injected(DEPLOYMENT, "text", None)
    twice, (outcome,) = injected(once, "text", None)
    assert twice == once
    assert (outcome.done, outcome.changed) == (True, False)


def test_one_that_has_a_sidecar_is_refused() -> None:
    once, _ = injected(DEPLOYMENT, "text", SETTINGS)
    for settings in (SETTINGS, None):
        again, (outcome,) = injected(once, "text", settings)
        assert again == once
        assert (outcome.refused, outcome.reasons) == (True, ("pod has a sidecar injected already",))


@pytest.mark.parametrize(
    ("text", "reason", "refused"),
    [
        (without(DEPLOYMENT, CONTAINERS, "      hostNetwork: true\n"), "hostNetwork is enabled", True),
        ("kind: Deployment\nmetadata: {name: web}\nspec: {}\n", "it has no pod template", True),
        ("kind: Deployment\nmetadata: {name: web}\nspec: {template: {metadata: {}}}\n", "not a pod", True),
        (
            without(DEPLOYMENT, LABELS, "      annotations: {linkerd.io/inject: disabled}\n"),
            'pod has the annotation "meshd.io/inject:disabled"', False,
        ),
        (
            without(DEPLOYMENT, LABELS, "      annotations: {config.meshd.io/inbound-port: '0'}\n"),
            "annotation config.meshd.io/inbound-port: found '0'", True,
        ),
        (without(DEPLOYMENT, LABELS, "      annotations: {a: true}\n"), "not a pod: metadata.annotations", True),
    ],
)  # fmt: skip
def test_why_not(text: str, reason: str, refused: bool) -> None:
    made, (outcome,) = injected(text, "text", None)
    assert made == text
    assert (outcome.done, outcome.refused) == (False, refused)
    assert outcome.reasons[0].startswith(reason)


def test_trust_is_needed_for_the_sidecar_and_not_for_the_annotation() -> None:
    _, (outcome,) = injected(DEPLOYMENT, "text", Installation())
    assert outcome.refused
    _, (outcome,) = injected(DEPLOYMENT, "text", None)
    assert outcome.done


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [\n", "text: line 2, column 1: not YAML"),
        ("- a\n", "expected an object with `kind`"),
        ("{{ .Values.web }}\n", "text"),
        (
            without(DEPLOYMENT, "    metadata:\n", "    metadata: &m\n") + "---\nkind: Pod\nmetadata: *m\n",
            "not YAML: found undefined alias",
        ),
        (
            "kind: List\nitems:\n- kind: Pod\n  metadata: &m\n    labels: {a: b}\n  spec: &s\n    containers: []\n"
            "- kind: Pod\n  metadata: *m\n  spec: *s\n",
            "cannot be edited as it is written",
        ),
        (LAUGHS, "aliases make more values"),
        ("a: " + "[" * 100_000, "more than 256 collections in each other"),
        ("a: &a [*a]\n", "aliases make more values"),
        (without(DEPLOYMENT, LABELS, "      annotations: !!null null\n"), "a null that is written"),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_what_cannot_be_edited_is_said_and_left(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r".") as refused:
        injected(text, "text", None)
    assert said in str(refused.value)


def test_what_a_cluster_has_made_of_it_is_taken_out_too() -> None:
    """After `kubectl get -o yaml`: no comments, keys in order, other things beside."""
    made = [*yaml.safe_load_all(injected(DEPLOYMENT, "text", SETTINGS)[0])]
    sorted_text = yaml.safe_dump(made[0])
    (back,) = yaml.safe_load_all(uninjected(sorted_text, "text")[0])
    assert back == PLAIN


def test_a_persons_own_annotations_stay() -> None:
    text = without(DEPLOYMENT, LABELS, "      annotations: {config.meshd.io/inbound-port: '5143'}\n")
    made, _ = injected(text, "text", SETTINGS)
    assert uninjected(made, "text")[0] == text
