"""Pods of manifests, played by processes: each container's command with its arguments, environment, user and files, in
a file system of its own, in which are the system's programs, this checkout, and the volumes that it mounts.

What there is of a pod's manifest that is not played ends in an AssertionError, not in something else. The network is
whoever's who calls: `enter` is the command that enters the network namespace which is the pod's. Needs root, and
`unshare` and `setpriv`.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.processes import finished, running

Manifest = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CONTAINED = Path(__file__).parent / "programs" / "contained.py"

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API_AUDIENCE = ""
"""Asks for a token for the API server itself."""

USUAL_CAPABILITIES = frozenset({
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service", "net_raw",
    "sys_chroot", "mknod", "audit_write", "setfcap",
})  # fmt: skip
"""What root has in a container that drops none."""


@dataclass
class Surroundings:
    """What a pod finds in its cluster. `find` is an object by kind, namespace and name; `token` one of a service
    account (namespace, name, audience)."""

    find: Callable[[str, str, str], Manifest]
    token: Callable[[str, str, str], str]
    api_ca: str
    api: tuple[str, int]
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Name → address, or several with spaces between them: in place of the cluster's DNS."""


@dataclass(frozen=True)
class Container:
    """What becomes a process. `mounts` are (volume's name, path, whether it is read only)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[tuple[str, str, bool], ...]
    uid: int
    gid: int
    capabilities: frozenset[str]
    read_only: bool
    no_new_privs: bool
    ready: tuple[str, int] | None
    """(path, port) that says when it is."""


class Pod:
    """One pod of a manifest (`kind: Pod`, or the template of another with a name and a namespace)."""

    def __init__(
        self,
        pod: Manifest,
        namespace: str,
        name: str,
        surroundings: Surroundings,
        directory: Path,
        enter: Sequence[str] = (),
        address: str = "127.0.0.1",
        claims: Path | None = None,
    ) -> None:
        """`directory` is the pod's own; `claims` is where volumes are that outlive it."""
        self.spec, self.namespace, self.name = pod["spec"], namespace, name
        self._meta = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", **pod.get("metadata", {})}
        self._around, self._directory, self._enter, self.address = surroundings, directory, tuple(enter), address
        self._claims = claims or directory / "claims"
        self.account = str(self.spec.get("serviceAccountName") or "default")
        self._security = self.spec.get("securityContext") or {}
        self._plans = 0
        directory.mkdir(parents=True, exist_ok=True)

    # --- what the manifest says, as processes

    def containers(self, which: str = "containers") -> list[Container]:
        return [self._container(each) for each in self.spec.get(which) or ()]

    def _container(self, said: Manifest) -> Container:
        held = {**self._security, **(said.get("securityContext") or {})}
        uid = int(held.get("runAsUser", 0))
        assert uid or not held.get("runAsNonRoot"), f"{said['name']}: is not to run as root, and has no runAsUser"
        env = self._environment(said)
        command = [*(said.get("command") or ()), *(said.get("args") or ())]
        assert said.get("command"), f"{said['name']}: has no command, and there is no image to have one"
        mounts = [
            (each["name"], each["mountPath"], bool(each.get("readOnly"))) for each in said.get("volumeMounts", ())
        ]
        if self.spec.get("automountServiceAccountToken", True) and ACCOUNT not in [path for _, path, _ in mounts]:
            mounts.append(("", ACCOUNT, True))
        return Container(
            said["name"],
            tuple(expanded(each, env) for each in command),
            env,
            tuple(mounts),
            uid,
            int(held.get("runAsGroup", 0)),
            capabilities(held.get("capabilities") or {}),
            bool(held.get("readOnlyRootFilesystem")),
            held.get("allowPrivilegeEscalation") is False,
            _probed(said),
        )

    def _environment(self, said: Manifest) -> dict[str, str]:
        host, port = self._around.api
        env = {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/",  # as runc sets it for a user that has none
            "HOSTNAME": self.name,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
        }
        for each in said.get("env") or ():
            if "valueFrom" in each:
                env[each["name"]] = self._field(each["valueFrom"])
            else:
                env[each["name"]] = expanded(each.get("value", ""), env)
        assert not said.get("envFrom"), "envFrom is not played"
        return env

    def _field(self, source: Manifest) -> str:
        path = source["fieldRef"]["fieldPath"]  # nothing else is played
        if found := re.fullmatch(r"metadata\.(annotations|labels)\['(.+)'\]", path):
            return str((self._meta.get(found[1]) or {}).get(found[2], ""))
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self._meta["uid"],
            "spec.nodeName": self.spec.get("nodeName", "node-a"),
            "spec.serviceAccountName": self.account,
            "status.podIP": self.address,
            "status.hostIP": "192.0.2.1",
        }
        return str(known[path])

    # --- volumes

    def volume(self, name: str) -> Path:
        """The directory that a volume is, with what is in it now."""
        if not name:
            return self._account_volume()
        said = next(each for each in self.spec["volumes"] if each["name"] == name)
        kind = next(key for key in said if key != "name")
        content, here = said[kind], self._directory / "volumes" / name
        here.mkdir(parents=True, exist_ok=True)
        match kind:
            case "emptyDir":
                self._for_group(here, 0o777)
            case "persistentVolumeClaim":
                here = self._claims / content["claimName"]
                here.mkdir(parents=True, exist_ok=True)
                self._for_group(here, 0o755)
            case "configMap":
                texts = self._around.find("ConfigMap", self.namespace, content["name"])["data"]
                self._write_all(here, _items(content, texts), content.get("defaultMode", 0o644))
            case "secret":
                kept = self._around.find("Secret", self.namespace, content["secretName"]).get("data") or {}
                texts = {key: base64.b64decode(each).decode() for key, each in kept.items()}
                self._write_all(here, _items(content, texts), content.get("defaultMode", 0o644))
            case "projected":
                for source in content["sources"]:
                    self._write_all(here, self._projected(source), content.get("defaultMode", 0o644))
            case _:
                raise AssertionError(f"volumes of the kind {kind} are not played")
        return here

    def _projected(self, source: Manifest) -> dict[str, str]:
        match source:
            case {"serviceAccountToken": wanted}:
                audience = wanted.get("audience", API_AUDIENCE)
                return {wanted["path"]: self._around.token(self.namespace, self.account, audience)}
            case {"configMap": wanted}:
                texts = self._around.find("ConfigMap", self.namespace, wanted["name"])["data"]
                return _items(wanted, texts)
            case {"downwardAPI": wanted}:
                return {each["path"]: self._field(each) for each in wanted["items"]}
        raise AssertionError(f"{source} is not played")

    def _account_volume(self) -> Path:
        here = self._directory / "volumes" / "kube-api-access"
        here.mkdir(parents=True, exist_ok=True)
        token = self._around.token(self.namespace, self.account, API_AUDIENCE)
        self._write_all(here, {"token": token, "ca.crt": self._around.api_ca, "namespace": self.namespace}, 0o644)
        return here

    def _write_all(self, here: Path, texts: Mapping[str, str], mode: int) -> None:
        """As the kubelet: root's, and the pod's group's to read where it has one."""
        group = self._security.get("fsGroup")
        for name, text in texts.items():
            file = here / name
            file.unlink(missing_ok=True)
            file.write_text(text)
            file.chmod(mode | (0o040 if group is not None else 0))
            os.chown(file, 0, group or 0)

    def _for_group(self, here: Path, mode: int) -> None:
        """Of a volume that can be written to: its group's, too, where the pod has one."""
        group = self._security.get("fsGroup")
        here.chmod(mode | 0o2070 if group is not None else mode)
        os.chown(here, 0, group or 0)

    # --- processes

    def prepared(self, container: Container, argv: Sequence[str] = ()) -> list[str]:
        """The command that is the container; `argv` in place of its own, as of a hook."""
        root = self._directory / "roots" / container.name
        root.mkdir(parents=True, exist_ok=True)
        self.renew_names()
        binds = [*_system(), *([str(self.volume(name)), path, ro] for name, path, ro in container.mounts)]
        binds.append([str(self._names), "/etc/hosts", True])
        plan = {
            "root": str(root),
            "hostname": self.spec.get("hostname", self.name)[:63],
            "binds": sorted(binds, key=lambda each: len(Path(str(each[1])).parts)),
            "links": {"/var/run": "../run"},
            "texts": {
                "/etc/host.conf": "multi on\n",
                "/etc/nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\n",
                "/etc/passwd": "root:x:0:0::/:/bin/sh\n",
                "/etc/group": "root:x:0:\n",
            },
            "read_only": container.read_only,
            "uid": container.uid,
            "gid": container.gid,
            "groups": [self._security["fsGroup"]] if "fsGroup" in self._security else [],
            "capabilities": sorted(container.capabilities),
            "no_new_privs": container.no_new_privs,
            "env": dict(container.env),
            "argv": list(argv or container.argv),
        }
        self._plans += 1
        file = self._directory / f"{container.name}-{self._plans}.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(plan))
        unshared = ["unshare", "--mount", "--uts", "--propagation", "private"]
        return [*self._enter, *unshared, sys.executable, str(CONTAINED), str(file)]

    @property
    def _names(self) -> Path:
        return self._directory / "hosts"

    def renew_names(self) -> None:
        """Have all processes of the pod know names as they are in `Surroundings.hosts` now. It is written over in its
        place, since it is mounted, and never empty."""
        hosts = {"localhost": "127.0.0.1", self.name: self.address, **self._around.hosts}
        text = "".join(f"{one} {name}\n" for name, each in hosts.items() for one in each.split())
        if not self._names.exists() or self._names.read_text() != text:
            self._names.touch(mode=0o644)
            with self._names.open("r+") as file:
                file.write(text)
                file.truncate()

    def log(self, container: str) -> Path:
        return self._directory / f"{container}.log"

    @contextmanager
    def runs(self, deadline_s: float = 180.0) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
        """The pod: its init containers to their end, sidecars among them and then the others once they are ready. The
        processes by the names of their containers; they get SIGTERM at the end, the last one first."""
        with ExitStack() as stack:
            started: dict[str, subprocess.Popen[bytes]] = {}
            for said, container in zip(
                self.spec.get("initContainers") or (), self.containers("initContainers"), strict=True
            ):
                if said.get("restartPolicy") == "Always":
                    started[container.name] = stack.enter_context(self._running(container, deadline_s))
                else:
                    finished(self.prepared(container), self.log(container.name), ROOT)
            for said, container in zip(self.spec["containers"], self.containers(), strict=True):
                started[container.name] = stack.enter_context(self._running(container, deadline_s))
                if hook := (said.get("lifecycle") or {}).get("postStart"):
                    env = container.env
                    argv = [expanded(each, env) for each in hook["exec"]["command"]]
                    finished(self.prepared(container, argv), self.log(f"{container.name}-post-start"), ROOT)
            yield started

    @contextmanager
    def _running(self, container: Container, deadline_s: float) -> Iterator["subprocess.Popen[bytes]"]:
        def ready() -> bool:
            if container.ready is None:
                return True
            path, port = container.ready
            url = f"http://{self.address}:{port}{path}"
            argv = [*self._enter, "curl", "--silent", "--fail", "--noproxy", "*", "--max-time", "3", url]
            return subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0

        argv = self.prepared(container)
        with running(argv, self.log(container.name), ready, deadline_s=deadline_s) as process:
            yield process


def capabilities(said: Manifest) -> frozenset[str]:
    """What a process of root's may have, by a container's `capabilities`."""
    dropped = {each.lower() for each in said.get("drop") or ()}
    added = {each.lower() for each in said.get("add") or ()}
    return frozenset((set() if "all" in dropped else USUAL_CAPABILITIES - dropped) | added)


def expanded(text: str, env: Mapping[str, str]) -> str:
    """text with `$(NAME)` replaced, as the kubelet does: what is not known stays, and `$$` is a dollar."""

    def one(found: "re.Match[str]") -> str:
        if found[0] == "$$":
            return "$"
        return env.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", one, text)


def _items(said: Manifest, texts: Mapping[str, str]) -> dict[str, str]:
    """File → content, of a ConfigMap's or a Secret's."""
    if "items" in said:
        return {each["path"]: texts[each["key"]] for each in said["items"]}
    return dict(texts)


def _probed(said: Manifest) -> tuple[str, int] | None:
    probe = said.get("startupProbe") or said.get("readinessProbe")
    if probe is None:
        return None
    asked = probe["httpGet"]  # nothing else is played
    port = asked["port"]
    if isinstance(port, str):
        port = next(each["containerPort"] for each in said["ports"] if each["name"] == port)
    return asked["path"], int(port)


def _system() -> list[list[Any]]:
    """What stands for an image: the system's programs, and this checkout with its environment."""
    top = [
        each
        for each in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")
        if Path(each).exists()
    ]
    ours = {str(ROOT), sys.prefix, sys.base_prefix}
    kept = sorted(
        each for each in ours if not any(Path(each).is_relative_to(other) for other in {*top, *ours} - {each})
    )
    cache = ["/etc/ld.so.cache"] if Path("/etc/ld.so.cache").exists() else []
    system = [["/proc", "/proc", False], ["/dev", "/dev", False], ["/sys", "/sys", False]]
    return [*system, *([each, each, True] for each in (*top, *kept, *cache))]
