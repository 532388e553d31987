"""A pod's life as a kubelet leads it.

    start        init containers one after the other, each to its end; those that are sidecars until their startup probe
                 is good; then the others in their order, each when the postStart hook of the one before is done
    while it is  probes; a container that ends is started again as `restartPolicy` says, a sidecar always
    all done     where none is to be started again, the pod has succeeded or failed; then its sidecars are ended
    deleted      preStop hooks and SIGTERM for all but sidecars, then the sidecars in the opposite order, each when
                 those after it have ended; SIGKILL for whoever is left when the grace period is over

A kubelet's times are long: what it waits between probes, and before it starts a container anew, is here a tenth of
that, and for a container to fail for its probes it takes ten times as many of them. Each pod has a thread, which is in
the node's network.
"""

import dataclasses
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.support import pods
from tests.support.kubelet.node import Network, Node, enter
from tests.support.kubelet.probes import Probe
from tests.support.waiting import wait_until

Manifest = dict[str, Any]

PACE: Final = 0.1
TICK_S: Final = 0.02
READY_WITHIN_S: Final = 120.0
GRACE_S: Final = 30.0

_POD: Final = {
    "automountServiceAccountToken", "containers", "hostname", "initContainers", "restartPolicy", "securityContext",
    "serviceAccount", "serviceAccountName", "subdomain", "terminationGracePeriodSeconds", "volumes",
}  # fmt: skip
_CONTAINER: Final = {
    "args", "command", "env", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports",
    "readinessProbe", "resources", "restartPolicy", "securityContext", "startupProbe", "terminationMessagePolicy",
    "volumeMounts",
}  # fmt: skip
_SECURITY: Final = {
    "allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot",
    "runAsUser", "seccompProfile",
}  # fmt: skip
"""All are played but the profile of system calls."""
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


class Running:
    """A container: its process, and what its probes have found."""

    def __init__(self, said: Manifest, process: pods.Container) -> None:
        self.said, self.process, self.name = said, process, str(said["name"])
        self.probes: dict[str, Probe] = {kind: Probe.of(said[kind]) for kind in _PROBES if kind in said}
        self.ports = {each["name"]: each["containerPort"] for each in said.get("ports", ()) if "name" in each}
        self.popen: subprocess.Popen[bytes] | None = None
        self.status: int | None = None
        self.starts = 0
        self.again_at = 0.0
        self.reset()

    def reset(self) -> None:
        """It has been started anew."""
        self.started = "startupProbe" not in self.probes
        self.ready = "readinessProbe" not in self.probes
        self.failures: dict[str, int] = dict.fromkeys(self.probes, 0)
        now = time.monotonic()
        self.due = {kind: now + probe.delay_s * PACE for kind, probe in self.probes.items()}

    @property
    def is_sidecar(self) -> bool:
        return self.said.get("restartPolicy") == "Always"

    @property
    def runs(self) -> bool:
        return self.popen is not None and self.status is None

    @property
    def pid(self) -> int:
        """Of process 1 of the container, as the node sees it."""
        assert self.popen is not None
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return int(children[0])

    def signal(self, number: int) -> None:
        """To process 1, which is spared what it does not handle."""
        try:
            os.kill(self.pid, number)
        except (OSError, IndexError):  # it has ended
            pass


class Life:
    """See the module. `events` are what happened, in order: (what, container)."""

    def __init__(self, node: Node, network: Network, pod: Manifest, around: pods.Surroundings, directory: Path) -> None:
        spec = pod["spec"]
        _check(spec)
        meta = pod["metadata"]
        played = {**pod, "spec": _without_probes(spec)}
        enter_ = (*network.enter, "unshare", "--pid", "--fork", "--kill-child", "--")
        self.manifest = pods.Pod(
            played, meta["namespace"], meta["name"], around, directory, enter_, address=network.address
        )
        self.node, self.network, self.name = node, network, str(meta["name"])
        self.events: list[tuple[str, str]] = []
        self.phase = "Pending"
        self._policy = spec.get("restartPolicy", "Always")
        self._grace_s = float(spec.get("terminationGracePeriodSeconds", GRACE_S))
        self._init = self._made(spec.get("initContainers") or (), "initContainers")
        self._containers = self._made(spec["containers"], "containers")
        self._runs = itertools.count(1)
        self._deleted = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name=f"kubelet of {self.name}", daemon=True)

    def _made(self, said: Any, which: str) -> list[Running]:
        return [Running(each, one) for each, one in zip(said, self.manifest.containers(which), strict=True)]

    # --- for tests

    @property
    def address(self) -> str:
        return self.network.address

    def container(self, name: str) -> Running:
        return next(each for each in (*self._init, *self._containers) if each.name == name)

    def all(self) -> list[Running]:
        return [*self._init, *self._containers]

    def log(self, name: str) -> str:
        file = self.manifest.log(name)
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def is_ready(self) -> bool:
        self._check()
        runs = [each for each in (*self._init, *self._containers) if each.is_sidecar or each in self._containers]
        return self.phase == "Running" and all(each.runs and each.started and each.ready for each in runs)

    def wait_ready(self) -> None:
        self._wait(lambda: self.is_ready, "is ready")

    def wait_phase(self, phase: str) -> None:
        self._wait(lambda: self.phase == phase, f"is {phase}")

    def _wait(self, look: Any, what: str) -> None:
        def looked() -> bool:
            self._check()
            return bool(look())

        try:
            wait_until(looked, f"{self.name} {what}", READY_WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.phase}, {self.events}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- {each.name}\n{self.log(each.name)}" for each in (*self._init, *self._containers))

    def run(self, name: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        """`kubectl exec`: a command in the container, as its user."""
        process = self.container(name).process
        process = dataclasses.replace(process, name=f"{name}-exec{next(self._runs)}")  # it has files of its own
        return subprocess.run(
            self.manifest.prepared(process, argv),
            capture_output=True, text=True, check=False, timeout=READY_WITHIN_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"the kubelet of {self.name} failed: {self._error!r}\n{self.logs()}") from self._error

    # --- its thread

    def begin(self) -> None:
        self._thread.start()

    def delete(self) -> None:
        """Have it end, as when the pod is deleted; returns when all of it has."""
        self._deleted.set()
        self._thread.join(self._grace_s + READY_WITHIN_S)
        assert not self._thread.is_alive(), f"{self.name} does not end: {self.events}"

    def _live(self) -> None:
        try:
            enter(self.node.file)
            if self._start_up():
                self._go_on()
            self._end()
        except BaseException as error:  # the test is told
            self._error = error
        finally:
            for each in (*self._init, *self._containers):
                if each.runs and each.popen is not None:
                    each.signal(signal.SIGKILL)
                    each.popen.kill()
                    each.popen.wait()

    def _start_up(self) -> bool:
        """False where it was deleted meanwhile, or an init container has failed for good."""
        for number, each in enumerate(self._init):
            self._start(each)
            while not (each.runs and each.started if each.is_sidecar else each.status == 0):
                if self._deleted.is_set():
                    return False
                if each.status and not each.is_sidecar and self._policy == "Never":
                    self.phase = "Failed"
                    return False
                for other in self._init[: number + 1]:
                    self._look(other, again=other.is_sidecar or other is each)
                time.sleep(TICK_S)
        for each in self._containers:
            self._start(each)
            self._hook(each, "postStart")
        self.phase = "Running"
        return True

    def _go_on(self) -> None:
        """Until it is deleted, or done."""
        while not self._deleted.is_set():
            for each in self._init:
                if each.is_sidecar:
                    self._look(each, again=True)
            for each in self._containers:
                again = self._policy == "Always" or (self._policy == "OnFailure" and each.status != 0)
                self._look(each, again=again)
            ended = [each.status for each in self._containers if not each.runs]
            if len(ended) == len(self._containers) and not self._starts_again():
                self.phase = "Succeeded" if not any(ended) else "Failed"
                return
            time.sleep(TICK_S)

    def _starts_again(self) -> bool:
        if self._policy == "Never":
            return False
        return self._policy == "Always" or any(each.status for each in self._containers)

    def _start(self, each: Running) -> None:
        with self.manifest.log(each.name).open("ab") as log:
            each.popen = subprocess.Popen(
                self.manifest.prepared(each.process), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        each.status = None
        each.starts += 1
        each.reset()
        self.events.append(("started", each.name))

    def _look(self, each: Running, *, again: bool) -> None:
        """Whether it has ended, and what its probes say."""
        now = time.monotonic()
        if each.runs:
            assert each.popen is not None
            each.status = each.popen.poll()
            if each.status is not None:
                each.ready = False
                each.again_at = now + (0.0 if each.starts == 1 else 10.0 * PACE)
                self.events.append(("ended", each.name))
        elif again and now >= each.again_at:
            self._start(each)
        if not each.runs:
            return
        for kind, probe in each.probes.items():
            if now >= each.due[kind] and each.started != (kind == "startupProbe"):
                each.due[kind] = now + probe.period_s * PACE
                self._found(each, kind, probe.ask(self.address, each.ports, partial(self._status, each.name)))

    def _status(self, name: str, argv: list[str]) -> int:
        return self.run(name, *argv).returncode

    def _found(self, each: Running, kind: str, well: bool) -> None:
        each.failures[kind] = 0 if well else each.failures[kind] + 1
        failed = each.failures[kind] >= each.probes[kind].failures / (1.0 if kind == "readinessProbe" else PACE)
        if kind == "readinessProbe":
            each.ready = well or (each.ready and not failed)
        elif kind == "startupProbe":
            each.started = well
        if failed and kind != "readinessProbe":
            self.events.append((f"{kind} failed", each.name))
            each.signal(signal.SIGKILL)

    def _hook(self, each: Running, kind: str) -> None:
        hook = (each.said.get("lifecycle") or {}).get(kind)
        if hook is None:
            return
        assert set(hook) == {"exec"}, f"the hook {hook} is not played"
        done = self.run(each.name, *(pods.expanded(part, each.process.env) for part in hook["exec"]["command"]))
        self.events.append((kind if done.returncode == 0 else f"{kind} failed", each.name))
        if done.returncode and kind == "postStart":
            with self.manifest.log(each.name).open("a") as log:
                log.write(f"{done.stdout}{done.stderr}")
            each.signal(signal.SIGKILL)

    # --- its end

    def _end(self) -> None:
        deadline = time.monotonic() + self._grace_s
        alive = [each for each in self._containers if each.runs]
        telling = [threading.Thread(target=self._tell, args=(each,)) for each in alive]
        for one in telling:
            one.start()
        for one in telling:
            one.join(max(0.0, deadline - time.monotonic()))
        self._await_end(alive, deadline)
        for each in reversed([each for each in self._init if each.runs]):
            self._tell(each)
            self._await_end([each], deadline)

    def _tell(self, each: Running) -> None:
        """Have it end: of several each for itself."""
        self._hook(each, "preStop")
        self.events.append(("SIGTERM", each.name))
        each.signal(signal.SIGTERM)

    def _await_end(self, alive: list[Running], deadline: float) -> None:
        while alive:
            for each in tuple(alive):
                assert each.popen is not None
                each.status = each.popen.poll()
                if each.status is not None:
                    self.events.append(("ended", each.name))
                    alive.remove(each)
                elif time.monotonic() >= deadline:
                    self.events.append(("SIGKILL", each.name))
                    each.signal(signal.SIGKILL)
                    each.status = each.popen.wait()
                    alive.remove(each)
            time.sleep(TICK_S)


@contextmanager
def living(
    node: Node, pod: Manifest, around: pods.Surroundings, directory: Path, network: Network | None = None
) -> Iterator[Life]:
    """A pod on the node, until the end."""
    made = Life(node, network or node.plug(), pod, around, directory / pod["metadata"]["name"])
    for each in pod["spec"]["containers"]:
        for port in each.get("ports", ()):
            if "hostPort" in port:
                node.publish(port["hostPort"], made.network, port["containerPort"])
    made.begin()
    try:
        yield made
    finally:
        made.delete()


def _check(spec: Manifest) -> None:
    assert not spec.keys() - _POD, f"{sorted(spec.keys() - _POD)} of a pod is not played"
    for each in (*spec.get("initContainers", ()), *spec["containers"]):
        assert not each.keys() - _CONTAINER, f"{sorted(each.keys() - _CONTAINER)} of {each['name']} is not played"
        held = each.get("securityContext", {})
        assert not held.keys() - _SECURITY, f"{sorted(held.keys() - _SECURITY)} of {each['name']} is not played"
        assert not held.get("privileged"), f"{each['name']} is privileged, which is not played"
    for each in spec["containers"]:
        assert "restartPolicy" not in each, f"{each['name']} is no init container, and has a restartPolicy"


def _without_probes(spec: Manifest) -> Manifest:
    """They are asked here."""
    lists: Manifest = {
        which: [{key: value for key, value in each.items() if key not in _PROBES} for each in spec[which]]
        for which in ("initContainers", "containers")
        if which in spec
    }
    return {**spec, **lists}
