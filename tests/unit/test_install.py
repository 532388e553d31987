"""What `meshd install` prints, and what it refuses to."""

import base64
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.cli.options import names, settings_of
from k8s.manifests import definitions, objects
from k8s.manifests.identity import KeyMaterial, from_files, issue, make, read_root, write_root_key
from k8s.manifests.text import as_yaml
from k8s.settings import Installation
from k8s.settings_text import given, loaded
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Misuse, Problem
from meshd.ca.certificates import Life
from meshd.ca.external import IssuerFiles
from tests.support import installs

NOW = 1_800_000_000.0

Manifest = dict[str, Any]


def of_kind(found: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in found if each["kind"] in kinds]


def pods(found: list[Manifest]) -> Iterator[Manifest]:
    yield from (each["spec"]["template"]["spec"] for each in of_kind(found, "Deployment", "StatefulSet"))


@pytest.fixture(scope="module")
def printed() -> list[Manifest]:
    settings = loaded("", "", {"highAvailability": "true", "replicas": "3"})
    return objects(settings, KeyMaterial(installs.ANCHORS.read_text(), "the chain\n", "the key\n"))


@pytest.mark.parametrize("name", installs.SETTINGS)
def test_the_golden_files(name: str) -> None:
    golden = (installs.FOLDER / f"{name}.yaml").read_text()
    assert installs.printed(name) == golden, "python -m tests.support.installs, and read what became different"


def test_what_is_printed_is_what_there_is(printed: list[Manifest]) -> None:
    assert [*yaml.safe_load_all(as_yaml(printed))] == printed
    assert printed[1 : 1 + len(definitions())] == definitions()


def test_the_order_is_one_in_which_it_can_be_made(printed: list[Manifest]) -> None:
    kinds = [each["kind"] for each in printed]
    assert kinds[0] == "Namespace"
    assert max(kinds.index(each) for each in ("ConfigMap", "Secret", "ServiceAccount", "Role")) < min(
        kinds.index("Deployment"), kinds.index("StatefulSet")
    )
    assert kinds[-2:] == ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]


def test_containers_are_held_as_the_strictest_standard_asks(printed: list[Manifest]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, `restricted`."""
    allowed = {"configMap", "secret", "projected", "persistentVolumeClaim", "emptyDir"}
    found = [*pods(printed)]
    assert len(found) == 2
    for pod in found:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            held = container["securityContext"]
            assert held["capabilities"] == {"drop": ["ALL"]}
            assert (held["allowPrivilegeEscalation"], held["runAsNonRoot"]) == (False, True)
            assert held["seccompProfile"] == {"type": "RuntimeDefault"}
            assert held["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            assert not any("hostPort" in port for port in container.get("ports", ()))
        assert all(
            {"readinessProbe", "livenessProbe", "startupProbe"} <= set(container) for container in pod["containers"]
        )
    labels = printed[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_name_place_or_number_is_there_twice(printed: list[Manifest]) -> None:
    """An API server has lists by such keys, and takes no list that has one twice."""
    for spec in pods(printed):
        unique(spec["volumes"], "name")
        unique([*spec.get("initContainers", ()), *spec["containers"]], "name")
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            for field, key in (("volumeMounts", "mountPath"), ("ports", "name"), ("env", "name")):
                unique(container.get(field, ()), key)


def unique(listed: Iterable[Manifest], key: str) -> None:
    keys = [each[key] for each in listed]
    assert len(keys) == len(set(keys)), keys


def test_nobody_has_more_rights_than_are_looked_at_here(printed: list[Manifest]) -> None:
    for role in of_kind(printed, "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            written = {"create", "update", "patch", "delete"} & set(rule["verbs"])
            assert not written or rule["resources"] == ["tokenreviews"] or rule["resourceNames"]
            assert "secrets" not in rule["resources"] or (role["kind"] == "Role" and rule["resourceNames"])


def test_what_refers_to_something_refers_to_what_is_there(printed: list[Manifest]) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in printed}
    for pod in pods(printed):
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        for volume in pod["volumes"]:
            if "configMap" in volume:
                (settings,) = of_kind(printed, "ConfigMap")
                assert settings["metadata"]["name"] == volume["configMap"]["name"]
                assert {each["key"] for each in volume["configMap"]["items"]} <= set(settings["data"])
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
    ports = {
        port["name"]: each["spec"]["selector"]["matchLabels"]
        for each in of_kind(printed, "Deployment", "StatefulSet")
        for port in each["spec"]["template"]["spec"]["containers"][0]["ports"]
        if port["name"] != "admin"
    }
    for service in of_kind(printed, "Service"):
        assert ports[service["spec"]["ports"][0]["targetPort"]] == service["spec"]["selector"]
    for configuration in printed[-2:]:
        (webhook,) = configuration["webhooks"]
        assert ("Service", webhook["clientConfig"]["service"]["name"]) in there


def test_pods_are_replaced_when_what_they_read_is_another() -> None:
    def checksums(**values: str) -> list[str]:
        keys = KeyMaterial(installs.ANCHORS.read_text(), "the chain\n", "the key\n")
        found = objects(loaded("", "", values), keys)
        return [
            each["spec"]["template"]["metadata"]["annotations"]["meshd.io/configuration"]
            for each in of_kind(found, "StatefulSet", "Deployment")
        ]

    ca, controller = checksums()
    assert checksums() == [ca, controller]
    assert checksums(trustDomain="prod.example")[0] != ca
    assert (checksums(failurePolicy="Fail")[0], checksums(failurePolicy="Fail")[1] != controller) == (ca, True)


def test_the_webhooks_are_not_asked_about_what_they_could_not_do_without(printed: list[Manifest]) -> None:
    (webhook,) = printed[-2]["webhooks"]
    without = webhook["namespaceSelector"]["matchExpressions"][0]
    assert (without["key"], without["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    assert {"kube-system", "meshd"} <= set(without["values"])
    assert "caBundle" not in webhook["clientConfig"]  # else an `apply` would take the injector's own away


def test_only_what_differs_is_kept_of_settings() -> None:
    assert given(Installation()) == "namespace: meshd\ntrustDomain: cluster.local\nclusterDomain: cluster.local\n"
    values = {"proxy.await": "false", "ca.storage": "ephemeral", "image": "registry.example/meshd:1", "replicas": "2"}
    made = loaded("", "", values)
    assert loaded(given(made), "") == made
    assert yaml.safe_load(given(made))["proxy"] == {"await": False}


def test_every_setting_can_be_set() -> None:
    known = {*names(Installation)}
    assert {"replicas", "ca.storage", "proxy.await", "trustDomain"} <= known
    assert known >= set(_leaves(yaml.safe_load(given(loaded("", "", {"proxy.uid": "1", "ca.storageSize": "2Gi"})))))


def _leaves(tree: Manifest, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_what_ha_stands_for_is_said_otherwise_by_what_is_set(tmp_path: Path) -> None:
    ha = settings_of(None, (), True)
    assert (ha.high_availability, ha.replicas, ha.failure_policy) == (True, 3, "Fail")
    assert settings_of(None, ("replicas=5", "failurePolicy=Ignore"), True).replicas == 5
    file = tmp_path / "values.yaml"
    file.write_text("replicas: 7\n")
    made = settings_of(file, ("proxy.uid=5",), True)
    assert (made.replicas, made.failure_policy, made.proxy.uid) == (7, "Fail", 5)
    file.write_text("failurePolicy: Ignore\nhighAvailability: false\n")
    made = settings_of(file, (), True)
    assert (made.replicas, made.failure_policy, made.high_availability) == (3, "Ignore", True)


@pytest.mark.parametrize(
    ("given", "before", "storage", "replicas"),
    [
        ((), "", "kubernetes", 3),
        (("ca.replicas=5",), "", "kubernetes", 5),
        (("ca.storage=persistent",), "", "persistent", 1),
        ((), "ca: {storage: ephemeral}\n", "ephemeral", 1),
        ((), "replicas: 2\n", "persistent", 1),  # where an installation's CA remembers is what it was made with
        ((), "ca: {storage: kubernetes}\n", "kubernetes", 3),
        ((), "ca: {storage: kubernetes, replicas: 2}\n", "kubernetes", 2),
        (("ca.storage=kubernetes",), "replicas: 2\n", "kubernetes", 3),
    ],
)
def test_what_ha_stands_for_of_the_ca(given: tuple[str, ...], before: str, storage: str, replicas: int) -> None:
    made = settings_of(None, given, True, before)
    assert (made.ca.storage, made.ca.replicas) == (storage, replicas)


def test_the_records_of_several_cas_are_all_that_their_account_may_write() -> None:
    made = [*yaml.safe_load_all(installs.printed("ha"))]
    (role,) = (each for each in of_kind(made, "Role") if each["metadata"]["name"] == "meshd-ca")
    verbs = ["get", "list", "create", "update", "delete"]
    assert role["rules"] == [{"apiGroups": ["meshd.io"], "resources": ["carecords"], "verbs": verbs}]
    assert not list(of_kind(made, "PersistentVolumeClaim"))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("replicas", Misuse, "expected NAME=VALUE"),
        (
            "proxy.cpuRequests=1",
            Misuse,
            r"no such setting \(did you mean proxy.cpuRequest\?\); there are ca.logLevel, ",
        ),
        ("proxy=1", Misuse, "no such setting"),
        ("replicas=many", ConfigurationError, r"--set: replicas: expected `int`"),
        ("ca.storageSize=large", ConfigurationError, "storageSize: found 'large'; expected a quantity"),
        ("ca.names=ca.example,a_b", ConfigurationError, "names: found 'a_b'; expected DNS names and addresses"),
        ("ca.storage=none", ConfigurationError, "ca.storage"),
        ("ca.replicas=3", ConfigurationError, "replicas: found 3; expected 1 with `storage: persistent`"),
    ],
)
def test_a_setting_that_is_none_is_refused(given: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        settings_of(None, (given,), False)


# --- what the CA signs with


def test_a_new_root_and_an_issuer_below_it_fit(tmp_path: Path) -> None:
    keys, root = make("prod.example", NOW)
    for name, text in zip(("anchors", "chain", "key"), keys, strict=True):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    where = IssuerFiles(tmp_path / "key", tmp_path / "chain")
    assert from_files("prod.example", tmp_path / "anchors", where, NOW) == keys
    with pytest.raises(Problem, match=r"the issuer is of prod\.example, and this CA of other\.example"):
        from_files("other.example", tmp_path / "anchors", where, NOW)
    with pytest.raises(Problem, match="not now"):
        from_files("prod.example", tmp_path / "anchors", where, NOW + 366 * 86400.0)
    (tmp_path / "anchors").write_text(make("prod.example", NOW)[0].anchors)
    with pytest.raises(Problem, match="does not lead to a root"):
        from_files("prod.example", tmp_path / "anchors", where, NOW)
    later = issue("prod.example", root, Life.of(root.certificate).not_after - 3600.0)
    assert later.anchors == keys.anchors
    assert later.chain != keys.chain
    assert keys.key not in repr(keys)


def test_a_roots_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    keys, root = make("prod.example", NOW)
    file = tmp_path / "root.key"
    before = os.umask(0)
    try:
        write_root_key(file, root)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_root(file, keys.anchors, NOW).certificate == root.certificate
    with pytest.raises(Problem, match="is never overwritten"):
        write_root_key(file, root)
    with pytest.raises(Problem, match="not the key of a root that this installation trusts"):
        read_root(file, make("prod.example", NOW)[0].anchors, NOW)
    with pytest.raises(Problem, match="expired"):
        read_root(file, keys.anchors, NOW + 4000 * 86400.0)
    file.chmod(0o644)
    with pytest.raises(Problem, match="lets others than its owner at it"):
        read_root(file, keys.anchors, NOW)


def test_the_secret_has_what_it_is_mounted_for() -> None:
    keys, _ = make("cluster.local", NOW)
    (secret,) = [each for each in of_kind(objects(Installation(), keys), "Secret") if "data" in each]
    assert secret["type"] == "kubernetes.io/tls"
    assert {name: base64.b64decode(text).decode() for name, text in secret["data"].items()} == {
        "tls.crt": keys.chain, "tls.key": keys.key
    }  # fmt: skip
    assert "PRIVATE" not in as_yaml(each for each in objects(Installation(), keys) if each["kind"] != "Secret")
