"""The API server as a cluster's own parts ask it: JSON over one connection, with an administrator's token."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

Manifest = dict[str, Any]

WITHIN_S = 60.0


class Refused(Exception):
    """The server's own words; `code` as in HTTP."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


class Asked:
    """Of a kubeconfig with one user and one cluster. For one thread, in whose network the connection is made."""

    def __init__(self, kubeconfig: Path) -> None:
        said = yaml.safe_load(kubeconfig.read_text())
        cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
        self._where = urlsplit(cluster["server"])
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._headers = {"Authorization": f"Bearer {user['token']}", "User-Agent": "controllers"}
        self._connection: http.client.HTTPSConnection | None = None

    def __call__(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        """The answer; Refused where it is none of 2xx, and OSError where there is none."""
        if self._connection is None:
            host, port = str(self._where.hostname), self._where.port
            self._connection = http.client.HTTPSConnection(host, port, context=self._tls, timeout=WITHIN_S)
        content = None if body is None else json.dumps(body)
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            self._connection.request(method, path, content, headers)
            got = self._connection.getresponse()
            said: Manifest = json.loads(got.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError(f"{method} {path}: {error}") from error
        if got.status >= 300:
            raise Refused(got.status, f"{method} {path}: {said.get('message')}")
        return said

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
