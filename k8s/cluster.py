"""The API server, as a person's commands ask it: by their kubeconfig, one request after another.

Its counterpart for daemons is `discovery.kubernetes.access`. Of the library its configuration and its HTTP client are
used: kubeconfig with contexts, plugins and client certificates, else the service account of the pod that this runs in.
The environment is regarded as `kubectl` does (`KUBECONFIG`, and `HTTPS_PROXY` through the library).
"""

import importlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from meshd.api.problems import Problem

Body = dict[str, Any]

ANSWER_S: Final = 10.0
PAGE: Final = 500

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class NoCluster(Problem):
    """There is no kubeconfig, so there is no cluster to speak of."""


class Unanswered(Problem):
    """The API server cannot be reached, or did not answer in time."""


class Refused(Problem):
    """The API server answered, and not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_configured(kubeconfig: str = "", environ: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody says where a cluster is, or the usual places do; those that may not be looked into do not."""
    return bool(_named(kubeconfig, environ)) or any(map(os.path.exists, (_usual(), SERVICE_ACCOUNT)))


def _named(kubeconfig: str, environ: Mapping[str, str]) -> list[Path]:
    """The kubeconfigs that somebody names, as for `kubectl`."""
    return [Path(each) for each in (kubeconfig or environ.get("KUBECONFIG", "")).split(os.pathsep) if each]


def _usual() -> Path:
    return Path(os.path.expanduser("~/.kube/config"))


class Cluster:
    """The cluster of a kubeconfig's context; the current one when that is empty. Every method raises Unanswered or
    Refused. A context manager, which closes its connections."""

    def __init__(self, kubeconfig: str = "", context: str = "", environ: Mapping[str, str] = os.environ) -> None:
        """NoCluster when nothing says where one is; Problem when what does cannot be used."""
        library: Any = importlib.import_module("kubernetes")  # a third of a second, for those who ask a cluster
        configuration = library.client.Configuration()
        named = _named(kubeconfig, environ)
        found = [file for file in named or [_usual()] if file.exists()]
        where = ", ".join(map(str, found)) or "the pod's service account"
        if named and not found:
            raise NoCluster(f"{', '.join(map(str, named))}: there is no such kubeconfig")
        if not found and not SERVICE_ACCOUNT.exists():
            raise NoCluster("there is no kubeconfig: name it with --kubeconfig or $KUBECONFIG")
        try:
            if found:
                library.config.load_kube_config(
                    os.pathsep.join(map(str, found)),
                    context=context or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
            else:
                library.config.load_incluster_config(client_configuration=configuration)
        except Exception as error:  # the library's own, and whatever a file that is wrong makes it run into
            raise Problem(f"{where}: {str(error) or type(error).__name__}") from error
        if urlsplit(configuration.host).scheme != "https":
            raise Problem(f"{where}: the server {configuration.host!r} is not an https URL")
        if not configuration.verify_ssl:
            raise Problem(f"{where}: insecure-skip-tls-verify is not to be had: name the CA in certificate-authority")
        configuration.retries = 1
        self.url = str(configuration.host)
        self._api: Any = library.client.ApiClient(configuration)
        self.ahead_s: float | None = None
        """How far the API server's clock is ahead of this one, by its last answer; None where it did not say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pools = self._api.rest_client.pool_manager.pools
        for key in pools.keys():  # noqa: SIM118 - which cannot be iterated over
            pools[key].close()  # by itself it closes once nobody holds an answer, and a Refused does by its traceback

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Body | None:
        """The object or list at path; None when there is none."""
        try:
            return self._asked("GET", path, query or {}, None)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def list(self, path: str, query: Mapping[str, str] | None = None) -> "list[Body]":
        """The objects at path; none where the resource is not served."""
        return [*self.each(path, query)]

    def each(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Body]:
        """The same one after the other, read page by page: for what there may be very many of."""
        after = ""
        while True:
            asked = {**(query or {}), "limit": str(PAGE), **({"continue": after} if after else {})}
            page = self.get(path, asked)
            if page is None:
                return
            yield from page.get("items") or ()
            after = page.get("metadata", {}).get("continue") or ""
            if not after:
                return

    def create(self, path: str, body: Body, query: Mapping[str, str] | None = None) -> Body:
        return self._asked("POST", path, query or {}, body)

    def may(self, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Whether who asks may do that (SelfSubjectAccessReview)."""
        resource, _, subresource = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        answer = self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool((answer.get("status") or {}).get("allowed"))

    def version(self) -> tuple[int, int]:
        """(major, minor) of the API server."""
        said = self._asked("GET", "/version", {}, None)
        found = re.fullmatch(r"(\d+)\.(\d+)", f"{said.get('major', '')}.{str(said.get('minor', '')).rstrip('+')}")
        if found is None:
            raise Refused(200, f"{self.url}: does not say which version of Kubernetes it is")
        return int(found[1]), int(found[2])

    def _asked(self, method: str, path: str, query: Mapping[str, str], body: Body | None) -> Body:
        from kubernetes.client import exceptions  # noqa: PLC0415 - it is loaded by now
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - the library's own

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            parts = self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._api.call_api(*parts, _request_timeout=ANSWER_S)
            content = answer.read()
            self.ahead_s = _ahead(answer.getheader("Date"))
        except (exceptions.OpenApiException, HTTPError, OSError) as error:
            raise Unanswered(f"{self.url}: {_reason(error)}") from error
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, f"{self.url}: {_said(content)} (status {answer.status})")
        try:
            found = json.loads(content)
        except ValueError as error:
            raise Refused(answer.status, f"{self.url}: answers {path} with what is no JSON") from error
        if not isinstance(found, dict):
            raise Refused(answer.status, f"{self.url}: answers {path} with what is no object")
        return found


def _ahead(date: str | None) -> float | None:
    """By a Date header (RFC 9110, section 6.6.1), which has whole seconds."""
    try:
        return parsedate_to_datetime(date or "").timestamp() - time.time()
    except ValueError:
        return None


def _said(content: bytes) -> str:
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        message = ""
    return "".join(each if each.isprintable() else " " for each in message[:300]) or "it does not say why"


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason).rpartition(">: ")[2] or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}…"
