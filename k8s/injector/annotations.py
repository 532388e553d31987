"""What annotations and labels are called: meshd's, and those of Linkerd that mean the same.

A pod's go before its namespace's, and of one object's meshd's before Linkerd's. `config.linkerd.io/proxy-image` is not
among them: it names an image of Linkerd.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

INJECT: Final = ("meshd.io/inject", "linkerd.io/inject")
ENABLED: Final = "enabled"
DISABLED: Final = "disabled"
INGRESS: Final = "ingress"

CONTROL_PLANE_NS: Final = "meshd.io/control-plane-ns"
"""The label by which discovery takes a pod for meshed."""
WORKLOAD_NS: Final = "meshd.io/workload-ns"

PROXY_VERSION: Final = "meshd.io/proxy-version"
CREATED_BY: Final = "meshd.io/created-by"
TRUST_ROOT: Final = "meshd.io/trust-root-sha256"

_OURS: Final = "config.meshd.io/"
_LINKERDS: Final = "config.linkerd.io/"

SKIP_INBOUND_PORTS: Final = "skip-inbound-ports"
SKIP_OUTBOUND_PORTS: Final = "skip-outbound-ports"
OPAQUE_PORTS: Final = "opaque-ports"
CPU_REQUEST: Final = "proxy-cpu-request"
CPU_LIMIT: Final = "proxy-cpu-limit"
MEMORY_REQUEST: Final = "proxy-memory-request"
MEMORY_LIMIT: Final = "proxy-memory-limit"
LOG_LEVEL: Final = "proxy-log-level"
IMAGE: Final = "image"
PULL_POLICY: Final = "image-pull-policy"
UID: Final = "proxy-uid"
AWAIT: Final = "proxy-await"
WAIT_BEFORE_EXIT: Final = "wait-before-exit-seconds"
INBOUND_PORT: Final = "inbound-port"
NATIVE_SIDECAR: Final = "native-sidecar"

_ELSEWHERE: Final[dict[str, tuple[str, ...]]] = {
    IMAGE: (),
    WAIT_BEFORE_EXIT: ("config.alpha.linkerd.io/proxy-wait-before-exit-seconds",),
    NATIVE_SIDECAR: (
        "config.linkerd.io/proxy-enable-native-sidecar",
        "config.beta.linkerd.io/proxy-enable-native-sidecar",
        "config.alpha.linkerd.io/proxy-enable-native-sidecar",
    ),
}
"""What Linkerd calls them, where that is not the same."""


class Found(NamedTuple):
    """The value of an annotation, how it is called where it was found, and which of the places that was: 0 is the pod's
    own."""

    name: str
    value: str
    place: int = 0

    @property
    def is_linkerds(self) -> bool:
        return not self.name.startswith(_OURS)


def names(word: str) -> tuple[str, ...]:
    """All that the annotation for `word` may be called; meshd's own first."""
    return (_OURS + word, *_ELSEWHERE.get(word, (_LINKERDS + word,)))


RELEVANT: Final = frozenset(INJECT).union(
    *(
        (_OURS + word, *_ELSEWHERE.get(word, (_LINKERDS + word,)))
        for word in (
            SKIP_INBOUND_PORTS, SKIP_OUTBOUND_PORTS, OPAQUE_PORTS, CPU_REQUEST, CPU_LIMIT, MEMORY_REQUEST, MEMORY_LIMIT,
            LOG_LEVEL, IMAGE, PULL_POLICY, UID, AWAIT, WAIT_BEFORE_EXIT, INBOUND_PORT, NATIVE_SIDECAR,
        )
    )
)  # fmt: skip
"""All that anything here goes by."""


def relevant(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those of a namespace's annotations that are to be kept."""
    return {name: value for name, value in annotations.items() if name in RELEVANT}


def own(word: str) -> str:
    """meshd's name of it."""
    return _OURS + word


def find(word: str, *places: Mapping[str, str]) -> Found | None:
    """The annotation that counts; `places` are the pod's annotations, then its namespace's."""
    return first(names(word), *places)


def first(called: tuple[str, ...], *places: Mapping[str, str]) -> Found | None:
    found = (
        Found(name, place[name], number) for number, place in enumerate(places) for name in called if name in place
    )
    return next(found, None)
