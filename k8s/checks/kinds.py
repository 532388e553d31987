"""Every check of a cluster there is, in the order in which `meshd check` shows them. docs/kubernetes.md has a line for
each; ids stay the same from version to version."""

from typing import Final

from meshd.agent.check import kinds
from meshd.agent.check.kinds import Check

PAGE: Final = "docs/kubernetes.md"


class Kind(kinds.Kind):
    """One whose page is that of clusters."""

    __slots__ = ()

    def well(self, *names: object) -> Check:
        return super().well(*names)._replace(page=PAGE)


API_ANSWERS: Final = Kind("kubernetes-api", "api-answers", "the API server at {} answers")
API_VERSION: Final = Kind("kubernetes-api", "api-version", "the cluster is of version {} or later")
API_CLOCK: Final = Kind("kubernetes-api", "api-clock", "the clocks of this host and of the API server agree")
NODE_CLOCKS: Final = Kind("kubernetes-api", "node-clocks", "the clocks of the nodes and of the API server agree")

# --- before there is anything (`--pre`)

NOTHING_LEFT: Final = Kind("pre-kubernetes", "pre-nothing-left", "there is nothing of an installation")
MAY_CREATE: Final = Kind("pre-kubernetes", "pre-may-create", "you may create {}")
STORAGE: Final = Kind("pre-kubernetes", "pre-storage", "the cluster has a default storage class")
POD_SECURITY: Final = Kind("pre-kubernetes", "pre-pod-security", "pods may have what meshd-init needs")

# --- afterwards

SETTINGS: Final = Kind("kubernetes-installation", "installation", "there is an installation, and its settings are good")
RELEASE: Final = Kind(
    "kubernetes-installation", "installation-version", "the installation is of this program's version"
)
DEFINITIONS: Final = Kind("kubernetes-installation", "definitions", "the mesh's custom resources are defined")
DEFINED_SO: Final = Kind("kubernetes-installation", "definitions-version", "their definitions are this version's")

CONTROLLER: Final = Kind("kubernetes-control-plane", "controller-ready", "the controllers are ready")
AUTHORITY: Final = Kind("kubernetes-control-plane", "ca-ready", "the certificate authority is ready")
RUNNING: Final = Kind("kubernetes-control-plane", "control-plane-version", "the control plane's pods run this version")
SPREAD: Final = Kind("kubernetes-control-plane", "controller-nodes", "controllers, and CAs, are on nodes of their own")

ISSUER_READ: Final = Kind("kubernetes-identity", "issuer-read", "the issuer can be read, and fits the trust anchors")
ANCHORS_VALID: Final = Kind(
    "kubernetes-identity", "anchors-valid", "the trust anchors are within their validity period"
)
ANCHORS_LAST: Final = Kind("kubernetes-identity", "anchors-last", "the trust anchors are valid for at least 60 days")
ISSUER_VALID: Final = Kind("kubernetes-identity", "cluster-issuer-valid", "the issuer is within its validity period")
ISSUER_LASTS: Final = Kind("kubernetes-identity", "cluster-issuer-lasts", "the issuer is valid for at least 60 days")

WEBHOOK: Final = Kind("kubernetes-webhooks", "webhook", "the API server is told of {}")
WEBHOOK_TRUST: Final = Kind("kubernetes-webhooks", "webhook-trust", "it believes the certificate of {}")
WEBHOOK_REACHED: Final = Kind("kubernetes-webhooks", "webhook-reached", "behind {} is a pod that is ready")

SIDECARS_READY: Final = Kind("kubernetes-data-plane", "sidecars-ready", "the sidecars are ready")
SIDECARS_VERSION: Final = Kind(
    "kubernetes-data-plane", "sidecars-version", "the sidecars are of the installation's version"
)
SIDECARS_TRUST: Final = Kind(
    "kubernetes-data-plane", "sidecars-trust", "the sidecars trust what the installation trusts"
)
ALL_MESHED: Final = Kind("kubernetes-data-plane", "all-meshed", "pods that are to have a sidecar have one")

SECTIONS: Final = (
    "kubernetes-api",
    "pre-kubernetes",
    "kubernetes-installation",
    "kubernetes-control-plane",
    "kubernetes-identity",
    "kubernetes-webhooks",
    "kubernetes-data-plane",
)
