"""Every check there is, in the order in which `meshd check` shows them.

An id stays the same from version to version, for those who read `-o json`; docs/vm.md has a line for each.
"""

from typing import Final, Literal, NamedTuple

Result = Literal["success", "warning", "error"]

PAGE: Final = "docs/vm.md"
"""Says what to do, under a heading for each section. The package has it in /usr/share/doc/meshd."""


SET_THE_CLOCK: Final = "set the clock that is wrong, and have NTP keep it right: `timedatectl`"


class Check(NamedTuple):
    """One thing looked at: `description` says what is the case when all is well, `message` what is found instead, and
    `hint` what to do."""

    category: str
    id: str
    description: str
    result: Result = "success"
    message: str = ""
    hint: str = ""
    page: str = PAGE

    @property
    def see(self) -> str:
        """Where it says more; empty where nothing is wrong."""
        return "" if self.result == "success" else f"{self.page}#{self.category}"


class Kind(NamedTuple):
    """A check that can be made, of one thing or of several: what they are called takes the place of `{}`."""

    category: str
    id: str
    description: str

    def well(self, *names: object) -> Check:
        return Check(self.category, self.id, self.description.format(*names))

    def found(self, result: Result, message: str, hint: str, *names: object) -> Check:
        return self.well(*names)._replace(result=result, message=message, hint=hint)

    def warning(self, message: str, hint: str, *names: object) -> Check:
        return self.found("warning", message, hint, *names)

    def error(self, message: str, hint: str, *names: object) -> Check:
        return self.found("error", message, hint, *names)


# --- before there is anything (`--pre`) -------------------------------------------------------------------------------

PRE_SYSTEMD: Final = Kind("pre-meshd", "pre-systemd", "this host was booted with systemd")
PRE_CGROUPS: Final = Kind("pre-meshd", "pre-cgroups", "control groups of version 2 are mounted")
PRE_KERNEL: Final = Kind("pre-meshd", "pre-kernel", "nftables is here, and the kernel takes what capture needs")
PRE_PORT: Final = Kind("pre-meshd", "pre-port", "the port {} is free")
PRE_RESOLVER: Final = Kind("pre-meshd", "pre-resolver", "this host's resolver can be made to ask for the mesh's names")
PRE_ROUTE: Final = Kind("pre-meshd", "pre-route", "addresses of services ({}) have a route")
PRE_CLOCK: Final = Kind("pre-meshd", "pre-clock", "this host's clock is kept right")
PRE_ROOM: Final = Kind("pre-meshd", "pre-room", "there is room in {}")

# --- afterwards -------------------------------------------------------------------------------------------------------

DOCUMENTS: Final = Kind("meshd-config", "documents", "settings and documents are good")
AGENT_ANSWERS: Final = Kind("meshd-agent", "agent-answers", "the agent answers")
AGENT_VERSION: Final = Kind("meshd-agent", "agent-version", "the agent is of this program's version")
AGENT_COMPLAINS: Final = Kind("meshd-agent", "agent-complaints", "the agent has nothing to complain of")
CERTIFICATES: Final = Kind("meshd-agent", "workload-certificates", "every workload has a certificate that is good")
SYSTEMD: Final = Kind("meshd-host", "systemd", "this host was booted with systemd")
CGROUPS: Final = Kind("meshd-host", "cgroups", "control groups of version 2 are mounted")
STATE_ROOM: Final = Kind("meshd-host", "state-room", "there is room in {}")
SELECTED: Final = Kind("meshd-host", "selected-units", "the units that documents select are there")
PORT: Final = Kind("meshd-ports", "port", "nobody else has the port {}")
SOURCE_READ: Final = Kind("meshd-discovery", "source-read", "{} can be read")
SOURCE_ALLOWS: Final = Kind("meshd-discovery", "source-allows", "{} lets this host read what it asks for")
SERVICES_FRESH: Final = Kind("meshd-discovery", "services-fresh", "no service has been stale for {} minutes")
NAMES_ANSWER: Final = Kind("meshd-names", "names-answer", "the name server answers at {}")
NAMES_ASKED: Final = Kind("meshd-names", "names-asked", "this host's resolver asks it for the mesh's names")
TRUST_READ: Final = Kind("meshd-identity", "trust-read", "what the CA said last of its roots can be read")
BUNDLE_VALID: Final = Kind("meshd-identity", "bundle-valid", "the trust bundle is within its validity period")
BUNDLE_LASTS: Final = Kind("meshd-identity", "bundle-lasts", "the trust bundle is valid for at least 60 days")
NODE_KEY: Final = Kind("meshd-identity", "node-key", "the node's key can be read by the agent alone")
NODE_VALID: Final = Kind("meshd-identity", "node-valid", "the node's certificate is within its validity period")
ISSUER_VALID: Final = Kind("meshd-identity", "issuer-valid", "the issuer is within its validity period")
ISSUER_LASTS: Final = Kind("meshd-identity", "issuer-lasts", "the issuer is valid for at least 60 days")
NODE_ALONE: Final = Kind("meshd-identity", "node-alone", "no other host has this one's name")
NOT_DENIED: Final = Kind("meshd-identity", "not-denied", "the CA denies nothing of what this host is")
CA_ANSWERS: Final = Kind("meshd-ca", "ca-answers", "the CA at {} answers")
CA_DOMAIN: Final = Kind("meshd-ca", "ca-trust-domain", "the CA at {} is of this host's trust domain")
CA_CLOCK: Final = Kind("meshd-time", "ca-clock", "the clocks of this host and of the CA at {} agree")
CA_BUNDLE: Final = Kind("meshd-ca", "ca-bundle", "this host has the trust bundle of the CA at {}")
CAPTURE_KNOWN: Final = Kind("meshd-capture", "capture-known", "what is to be captured is known")
SLICE: Final = Kind("meshd-capture", "slice", "the slice {} is there")
RULES: Final = Kind("meshd-capture", "rules", "the rules in force are those that are configured")
STRANGERS: Final = Kind("meshd-capture", "strangers", "what runs in {} is a workload")
UNIT: Final = Kind("meshd-capture", "unit", "{} runs in the mesh")
PROXY_ATTACHED: Final = Kind("meshd-proxy", "proxy-attached", "the host's proxy is attached to the agent")
PROXY_READY: Final = Kind("meshd-proxy", "proxy-ready", "the host's proxy waits for nothing")
PROXY_VERSION: Final = Kind("meshd-proxy", "proxy-version", "the host's proxy is of the agent's version")
WORKLOAD_READY: Final = Kind("meshd-workloads", "workload-ready", "{} is ready for callers")
WORKLOAD_PRESENTS: Final = Kind("meshd-workloads", "workload-presents", "{} presents its certificate")
WORKLOAD_MESHED: Final = Kind("meshd-workloads", "workload-meshed", "{} is reached by mutual TLS")

SECTIONS: Final = (
    "pre-meshd",
    "meshd-config",
    "meshd-agent",
    "meshd-host",
    "meshd-time",
    "meshd-ports",
    "meshd-discovery",
    "meshd-names",
    "meshd-identity",
    "meshd-ca",
    "meshd-capture",
    "meshd-proxy",
    "meshd-workloads",
)
"""In the order in which they are shown."""
