"""How pods of manifests are played: what a kubelet makes of them."""

from pathlib import Path

import pytest

from tests.support.pods import USUAL_CAPABILITIES, Manifest, Pod, Surroundings, capabilities, expanded


@pytest.mark.parametrize(
    ("text", "became"),
    [
        ("--pod=$(NAMESPACE)/$(POD)", "--pod=shop/web-0"),
        ("$(NONE)", "$(NONE)"),
        ("$$(POD) costs $5", "$(POD) costs $5"),
        ("$POD", "$POD"),
    ],
)
def test_names_in_arguments_and_values(text: str, became: str) -> None:
    assert expanded(text, {"NAMESPACE": "shop", "POD": "web-0"}) == became


def test_what_root_may_have() -> None:
    assert capabilities({}) == USUAL_CAPABILITIES
    assert capabilities({"drop": ["ALL"]}) == frozenset()
    assert capabilities({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}) == {"net_admin", "net_raw"}
    assert "net_raw" not in capabilities({"drop": ["NET_RAW"]})


def pod(directory: Path, container: Manifest, **spec: object) -> Pod:
    around = Surroundings(
        lambda *_: {"data": {"a": "1", "b": "2"}}, lambda *of: f"token of {of}", "the CA\n", ("192.0.2.1", 443)
    )
    said = {"metadata": {"annotations": {"x/y": "z"}}, "spec": {"containers": [container], **spec}}
    return Pod(said, "shop", "web-0", around, directory)


def test_a_container_as_a_process(tmp_path: Path) -> None:
    field = {"fieldRef": {"fieldPath": "metadata.annotations['x/y']"}}
    said = {
        "name": "c",
        "command": ["serve"],
        "args": ["--at=$(AT)"],
        "env": [{"name": "X", "valueFrom": field}, {"name": "AT", "value": "$(X):80"}],
        "ports": [{"name": "admin", "containerPort": 4191}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "admin"}},
        "securityContext": {"runAsUser": 5, "allowPrivilegeEscalation": False},
    }
    (made,) = pod(tmp_path, said, securityContext={"runAsUser": 4, "runAsGroup": 6}).containers()
    assert made.argv == ("serve", "--at=z:80")
    assert (made.uid, made.gid, made.no_new_privs, made.ready) == (5, 6, True, ("/ready", 4191))
    assert made.mounts == (("", "/var/run/secrets/kubernetes.io/serviceaccount", True),)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"name": "c"}, "has no command"),
        ({"name": "c", "command": ["x"], "securityContext": {"runAsNonRoot": True}}, "is not to run as root"),
        ({"name": "c", "command": ["x"], "envFrom": [{}]}, "envFrom is not played"),
    ],
)
def test_what_is_not_played_is_not_played_otherwise(tmp_path: Path, said: Manifest, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        pod(tmp_path, said).containers()
