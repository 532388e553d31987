"""As whom a cluster's API server is spoken to, and to which: tokens that rotate, plugins, certificates, and files that
are none of them."""

import asyncio
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from discovery.kubernetes.registry import KubernetesRegistry
from discovery.registry import Away, Denied
from tests.support import aio
from tests.support.following import following
from tests.support.kubernetes import Cluster, Rule, User
from tests.support.kubernetes.bodies import endpoint, slice_of
from tests.support.kubernetes.stages import key, play, reader
from tests.support.kubernetes.worlds import World


def test_what_may_not_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, registry: KubernetesRegistry) -> None:
        rule = Rule(("get", "list", "watch"), ("services", "pods"), ("",))
        cluster.users["a token"] = User("agent", rules=(rule,))
        limited = reader(cluster.kubeconfig("a token", "limited"))
        async with following(limited, key(here)) as web:
            said = await web.ended()
        assert 'User "agent" cannot list resource "endpointslices"' in said
        assert "needs get, list and watch for services, endpointslices and pods" in said
        stranger = reader(cluster.kubeconfig("nobody's token", "stranger"))
        with pytest.raises(Denied, match=r"Unauthorized \(status 401\): it does not know these credentials"):
            await stranger.probe()
        await limited.close()
        await stranger.close()

    play(tmp_path, scene)


def test_a_token_that_was_rotated_is_read_again_without_a_break(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        token = tmp_path / "token"
        config = json.loads(cluster.kubeconfig().read_text())
        config["users"][0]["user"] = {"tokenFile": str(token)}
        (tmp_path / "by-file").write_text(json.dumps(config))
        cluster.users["one"] = cluster.users["two"] = User("agent", rules=(Rule(),))
        token.write_text("one")
        registry = reader(tmp_path / "by-file")
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            token.write_text("two\n")
            del cluster.users["one"]
            cluster.break_watches()
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), ports={"": 8080}))
            await web.endpoints("192.0.2.1", "192.0.2.2")
            assert web.away == ""
        await registry.close()

    play(tmp_path, scene)


def test_in_a_pod_the_service_accounts_token_is_used_as_it_rotates(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        account = tmp_path / "account"
        account.mkdir()
        (account / "ca.crt").write_bytes(cluster.ca.read_bytes())
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)}
        registry = reader(None, account=account, environ=environ)
        with pytest.raises(Away, match=r"the pod's service account: .*token"):
            await registry.probe()
        cluster.account_rules["system:serviceaccount:default:default"] = (Rule(),)
        tokens = [cluster.add("system:serviceaccount:default:default", "https://kubernetes.default.svc") for _ in "12"]
        (account / "token").write_text(tokens[0] + "\n")
        await eventually_there(registry)
        async with following(registry, key(here)) as web:
            await web.endpoints("192.0.2.1")
            (account / "token").write_text(tokens[1])
            del cluster.accounts[tokens[0]]
            cluster.break_watches()
            await here.slice(slice_of("web", "web-2", endpoint("192.0.2.2"), ports={"": 8080}))
            await web.endpoints("192.0.2.1", "192.0.2.2")
        await registry.close()
        outside = reader(None, account=account, environ={})
        with pytest.raises(Away, match="the pod's service account: Service host/port is not set"):
            await outside.probe()

    play(tmp_path, scene)


async def eventually_there(registry: KubernetesRegistry) -> None:
    async with asyncio.timeout(60.0):
        while True:
            try:
                await registry.probe()
            except Away:
                await asyncio.sleep(0.05)
            else:
                return


def test_a_plugin_gives_credentials_and_gives_new_ones_when_they_are_no_longer_good(tmp_path: Path) -> None:
    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        given, plugin, runs = tmp_path / "given", tmp_path / "plugin", tmp_path / "runs"
        plugin.write_text(f"#!/bin/sh\necho run >> {runs}\ncat {given}\n")
        plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
        version = "client.authentication.k8s.io/v1"

        def give(token: str) -> None:
            credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
            given.write_text(json.dumps(credential))

        config = json.loads(cluster.kubeconfig().read_text())
        config["users"][0]["user"] = {"exec": {"apiVersion": version, "command": str(plugin), "args": []}}
        (tmp_path / "by-plugin").write_text(json.dumps(config))
        cluster.users["one"] = cluster.users["two"] = User("agent", rules=(Rule(),))
        registry = reader(tmp_path / "by-plugin")
        said = await asyncio.gather(*(registry.probe() for _ in range(20)), return_exceptions=True)
        assert len(said) == sum("no credentials in it, or its plugin gave none" in str(each) for each in said)
        assert runs.read_text() == "run\n"  # not twenty times
        give("one")
        await eventually_there(registry)
        give("two")
        del cluster.users["one"]
        await registry.probe()
        await registry.close()

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify is not to be had"),
        ({"server": "http://127.0.0.1:8001"}, "is not an https URL"),
        ({"certificate-authority": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"certificate-authority-data": "AAAA", "certificate-authority": None}, "certificate"),
    ],
)
def test_a_server_that_cannot_be_known_for_what_it_is_is_not_spoken_to(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    async def scene(cluster: Cluster, _: World, __: KubernetesRegistry) -> None:
        config = json.loads(cluster.kubeconfig().read_text())
        changed = config["clusters"][0]["cluster"] | change
        config["clusters"][0]["cluster"] = {name: value for name, value in changed.items() if value is not None}
        (tmp_path / "changed").write_text(json.dumps(config))
        registry = reader(tmp_path / "changed")
        cluster.requests.clear()
        with pytest.raises(Away, match=said):
            await registry.probe()
        assert cluster.requests == []

    play(tmp_path, scene)


def test_another_server_in_its_place_is_not_spoken_to(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "other").mkdir()
        right, other = Cluster(tmp_path), Cluster(tmp_path / "other")
        async with right.serves(), other.serves():
            config = json.loads(right.kubeconfig().read_text())
            config["clusters"][0]["cluster"]["server"] = other.url
            (tmp_path / "wrong").write_text(json.dumps(config))
            registry = reader(tmp_path / "wrong")
            with pytest.raises(Away, match="its certificate is not good"):
                await registry.probe()
            assert other.requests == []
            await registry.close()

    aio.run(main())


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("", ""), ("{", ""), ("[]", ""), ("{}", ""), ('{"current-context": "x"}', "")],
)
def test_a_kubeconfig_that_is_none_is_said_to_be(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)

    async def main() -> None:
        registry = reader(file)
        with pytest.raises(Away, match=f"^{file}: .*{said}"):
            await registry.probe()
        await registry.close()

    aio.run(main())


def test_no_secret_is_in_what_is_said_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene(cluster: Cluster, here: World, _: KubernetesRegistry) -> None:
        cluster.users["s3cr3t"] = User("agent")
        registry = reader(cluster.kubeconfig("s3cr3t", "secret"))
        async with following(registry, key(here)) as web:
            assert "s3cr3t" not in await web.ended()
        await registry.close()

    play(tmp_path, scene)
    assert "s3cr3t" not in caplog.text
