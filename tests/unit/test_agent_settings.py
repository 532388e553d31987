"""The settings file: the example, the defaults, and what is said about every mistake."""

import pwd
from pathlib import Path

import pytest

from meshd.agent import node
from meshd.agent.credentials import Proof, read_bundle, read_proof
from meshd.agent.peer import Access
from meshd.agent.settings import Settings
from meshd.agent.settings_file import load_settings, usable_settings
from meshd.agent.settings_page import settings_page
from meshd.api.detection import Detection
from meshd.api.loading import ConfigurationError
from meshd.ca import certificates

NOW = 1.8e9
ROOT = Path(__file__).resolve().parents[2]

EXAMPLE = """\
# meshd.yaml
trustDomain: prod.example
node: vm1
stateDir: /var/lib/meshd
socket: /run/meshd/meshd.sock
ca: {url: "https://ca.example:4180", bundle: /etc/meshd/bundle.pem}
discovery: [{file: {path: /etc/meshd/conf.d}}]
proxy: {outbound: "127.0.0.1:4140", inbound: "0.0.0.0:4143", admin: "127.0.0.1:4191", workers: 1}
---
apiVersion: meshd.io/v1
kind: Workload
metadata: {name: web, namespace: default}
spec:
  ports: [{port: 8080, protocol: auto}]
  upstreams: [{service: api, listen: "127.0.0.1:9001"}]
"""


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "meshd.yaml"
    file.write_text(text)
    return load_settings(file)


def test_the_example(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE)
    assert (settings.trust_domain, settings.node_name) == ("prod.example", "vm1")
    assert settings.ca.url == "https://ca.example:4180"


def test_a_host_that_joins_may_leave_its_trust_domain_to_that(tmp_path: Path) -> None:
    file = tmp_path / "meshd.yaml"
    for text, domain in (("node: vm1", "x.example"), ("node: vm1\ntrustDomain: prod.example", "prod.example")):
        file.write_text(text)
        assert load_settings(file, "x.example").trust_domain == domain


def test_the_example_says_the_defaults_where_it_says_what_could_be_left_out(tmp_path: Path) -> None:
    least = load(tmp_path, 'trustDomain: prod.example\nnode: vm1\nca: {url: "https://ca.example:4180"}')
    assert least == load(tmp_path, EXAMPLE)


def test_how_protocols_are_detected(tmp_path: Path) -> None:
    usual = load(tmp_path, "trustDomain: x").proxy.detection
    assert usual == Detection((25, 587, 3306, 4444, 5432, 6379, 9300, 11211), 10.0)
    other = load(tmp_path, "trustDomain: x\nproxy: {opaquePorts: [3307], detectTimeout: 500ms}").proxy.detection
    assert other == Detection((3307,), 0.5)


def test_only_the_trust_domain_must_be_given(tmp_path: Path) -> None:
    settings = load(tmp_path, "trustDomain: prod.example")
    assert settings.ca.url == "https://localhost:4180"
    assert settings.node_name


def test_how_many_connections_a_proxy_may_have(tmp_path: Path) -> None:
    assert load(tmp_path, "trustDomain: x\nproxy: {maxConnections: 5000}").proxy.max_connections == 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings"),
        ("kind: Workload", "holds no settings"),
        ("trustDomain: [", "line 1"),
        ("- a", "expected `object`, got `array`"),
        ("node: vm1", "missing the field `trustDomain`"),
        ("trustDomain: x\ntrustDomain: y", "line 2, column 1: the key 'trustDomain' is written twice"),
        ("trustDomain: Prod Example", "trustDomain 'Prod Example' is not DNS labels"),
        ("trustDomain: x\n---\ntrustDomain: y", "document 2: settings are one document"),
        ("trustDomain: x\nsockets: /run/x", "unknown field `sockets`"),
        ("trustDomain: x\nnode: a.b", "the node name 'a.b' is not a DNS label"),
        ("trustDomain: x\nca: {url: 'http://ca'}", "ca: url: 'http://ca' is not an https URL"),
        (
            "trustDomain: x\nca: {url: 'https://a', urls: ['https://b']}",
            "ca: url and urls are both given: put all of them into urls",
        ),
        ("trustDomain: x\nca: {urls: ['https://a', 'http://b']}", "ca: urls[1]: 'http://b' is not an https URL"),
        ("trustDomain: x\nca: {url: 1}", "ca.url: expected `str`, got `int`"),
        ("trustDomain: x\nproxy: {workers: 0}", "proxy: workers: expected a number from 1 to 64 or `auto`, found 0"),
        ("trustDomain: x\nproxy: {opaquePorts: [25, 0]}", "proxy.opaquePorts[1]: expected `int` >= 1"),
        ("trustDomain: x\nproxy: {maxConnections: -1}", "proxy.maxConnections: expected `int` >= 0"),
        ("trustDomain: x\nproxy: {detectTimeout: 10}", "proxy.detectTimeout: expected `str`, got `int`"),
        ("trustDomain: x\nproxy: {detectTimeout: '10'}", "proxy: '10' is not a duration"),
        ("trustDomain: x\nproxy: {detectTimeout: 10ms}", "proxy: detectTimeout 10ms is not from 100ms to 10m"),
        ("trustDomain: x\nproxy: {inbound: '4143'}", "proxy: inbound: '4143' is not HOST:PORT"),
        (
            "trustDomain: x\nproxy: {outbound: '::1:4140'}",
            "proxy: outbound: '::1:4140': an IPv6 address is written in brackets",
        ),
        ("trustDomain: x\ndiscovery: [{zookeeper: {}}]", "discovery[0]: unknown field `zookeeper`"),
        ("trustDomain: x\ndiscovery: [{file: {path: 1}}]", "discovery[0].file.path: expected `str`"),
        ("trustDomain: x\ncontrol: {users: [no-such-user]}", "control.users[0]: no user is called 'no-such-user'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/meshd.yaml: ")
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"meshd\.yaml: cannot be read: No such file"):
        load_settings(tmp_path / "meshd.yaml")


def test_what_is_to_be_taken_away_is_so_by_any_settings(tmp_path: Path) -> None:
    file = tmp_path / "meshd.yaml"
    assert usable_settings(file).state_dir == "/var/lib/meshd"
    file.write_text("trustDomain: prod.example\nstateDir: /srv/meshd\n")
    assert usable_settings(file).state_dir == "/srv/meshd"
    file.write_text("trustDomain: prod.example\nstateDri: /srv/meshd\n")
    assert usable_settings(file).state_dir == "/var/lib/meshd"


def test_the_ca_s_files(tmp_path: Path) -> None:
    bundle, token = tmp_path / "bundle.pem", tmp_path / "ca.token"
    settings = load(tmp_path, f"trustDomain: x\nstateDir: {tmp_path}\nca: {{bundle: {bundle}}}")
    with pytest.raises(ConfigurationError, match=r"meshd\.yaml: ca\.bundle: .*No such file.*: copy bundle\.pem"):
        read_bundle(settings, "meshd.yaml")
    with pytest.raises(
        ConfigurationError,
        match=r"meshd\.yaml: ca\.tokenFile: .*No such file.*: join this host .* or copy agent\.token",
    ):
        read_proof(settings, "meshd.yaml")
    bundle.write_text("nothing")
    token.write_text("\n")
    with pytest.raises(ConfigurationError, match="holds no certificates"):
        read_bundle(settings, "meshd.yaml")
    with pytest.raises(ConfigurationError, match="is empty"):
        read_proof(settings, "meshd.yaml")
    token.write_text("secret\n")
    assert read_proof(settings, "meshd.yaml") == Proof("secret")


def test_users_who_may_declare_workloads() -> None:
    user = next(each for each in pwd.getpwall() if each.pw_uid != 0)
    access, findings = Access.of([user.pw_name], "f")
    assert findings == []
    assert user.pw_uid in access.user_uids
    assert user.pw_uid not in access.proxy_uids or user.pw_name == "meshd-proxy"
    assert 0 in access.user_uids & access.proxy_uids


def test_the_page_says_what_the_types_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), (
        "docs/settings.md differs from the types: python -m meshd.agent.settings_page > docs/settings.md"
    )


def joined(directory: Path, identity: str) -> None:
    """What `meshd join` left there, for a node of that identity; for none when it is empty."""
    key = certificates.new_key()
    life = certificates.Life(NOW, NOW + 86400)
    root = certificates.make_root("prod.example", life)
    leaf = certificates.make_leaf(identity, key.public_key(), root, life)
    node.write(directory / "node.key", key, certificates.pem(leaf).decode() if identity else "")


def test_a_host_that_joined_proves_itself_by_its_certificate(tmp_path: Path) -> None:
    settings = load(tmp_path, f"trustDomain: prod.example\nnode: vm1\nstateDir: {tmp_path}")
    (tmp_path / "ca.token").write_text("shared")
    joined(tmp_path, "spiffe://prod.example/node/vm1")
    proof = read_proof(settings, "meshd.yaml")
    assert (proof.token, proof.node) == ("", tmp_path / "node.key")
    explicit = load(
        tmp_path, f"trustDomain: prod.example\nnode: vm1\nstateDir: {tmp_path}\nca: {{tokenFile: {tmp_path}/ca.token}}"
    )
    assert read_proof(explicit, "meshd.yaml") == Proof("shared")


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ("", r"stateDir: .*node\.key: holds no certificate yet: joining was interrupted: run `meshd join` again"),
        (
            "spiffe://prod.example/node/vm2",
            r"node: .*joined as spiffe://prod\.example/node/vm2, and the settings make it",
        ),
        ("spiffe://b.example/node/vm1", r"node: .*joined as spiffe://b\.example/node/vm1"),
    ],
)
def test_what_a_host_joined_as_is_what_its_settings_say(tmp_path: Path, identity: str, said: str) -> None:
    settings = load(tmp_path, f"trustDomain: prod.example\nnode: vm1\nstateDir: {tmp_path}")
    joined(tmp_path, identity)
    with pytest.raises(ConfigurationError, match=said):
        read_proof(settings, "meshd.yaml")
