"""What a kubelet asks of a container: by HTTP, by connecting, by a command in it. It asks from the node."""

import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

KNOWN = {
    "exec", "failureThreshold", "httpGet", "initialDelaySeconds", "periodSeconds", "successThreshold", "tcpSocket",
    "timeoutSeconds",
}  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """One, with the API's defaults."""

    said: Manifest
    delay_s: float
    period_s: float
    timeout_s: float
    failures: int

    @classmethod
    def of(cls, said: Manifest) -> "Probe":
        assert not said.keys() - KNOWN, f"{sorted(said.keys() - KNOWN)} of a probe is not played"
        assert said.get("successThreshold", 1) == 1, "that a probe has to be good more than once is not played"
        return cls(
            said,
            float(said.get("initialDelaySeconds", 0)),
            float(said.get("periodSeconds", 10)),
            float(said.get("timeoutSeconds", 1)),
            int(said.get("failureThreshold", 3)),
        )

    def ask(self, address: str, ports: dict[str, int], run: Callable[[list[str]], int]) -> bool:
        """Whether it is well; from the network namespace of this thread. `ports` are the container's, by name; `run` is
        for commands."""
        match self.said:
            case {"httpGet": asked}:
                return self._by_http(asked, address, ports)
            case {"tcpSocket": asked}:
                return self._by_connecting(asked.get("host", address), _number(asked["port"], ports))
            case {"exec": asked}:
                return run(asked["command"]) == 0
        raise AssertionError(f"{self.said} asks nothing")

    def _by_http(self, asked: Manifest, address: str, ports: dict[str, int]) -> bool:
        assert asked.get("scheme", "HTTP") == "HTTP", "probes by HTTPS are not played"
        port = _number(asked["port"], ports)
        connection = http.client.HTTPConnection(asked.get("host", address), port, timeout=self._patience_s)
        fields = {each["name"]: each["value"] for each in asked.get("httpHeaders", ())}
        try:
            connection.request("GET", asked.get("path", "/"), headers={"user-agent": "kube-probe/1.32", **fields})
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _by_connecting(self, host: str, port: int) -> bool:
        try:
            with socket.create_connection((host, port), self._patience_s):
                return True
        except OSError:
            return False

    @property
    def _patience_s(self) -> float:
        """A machine that runs tests is slower than one that runs pods."""
        return max(self.timeout_s, 10.0)


def _number(port: int | str, ports: dict[str, int]) -> int:
    return port if isinstance(port, int) else ports[port]
