"""What the proxy itself answers when it cannot pass a request on, in Linkerd's words.

A caller learns from `l5d-proxy-error` that the answer is the proxy's and why; the operator finds the same word
in the metrics. Nothing of the mesh's inside (addresses, identities, causes) is in the text; that is the log's.
"""

from enum import Enum, StrEnum
from typing import NamedTuple


class Bound(StrEnum):
    """What a peer may not do, in the words of the label `error`; `docs/bounds.md` says how much is too much."""

    MALFORMED = "malformed"
    HEAD_SIZE = "head too large"
    HEAD_TIME = "head timeout"
    BODY_TIME = "body timeout"
    UNREAD = "write timeout"
    CONTINUATION = "continuation flood"
    RESETS = "rapid reset"
    SETTINGS = "settings flood"
    PING = "ping flood"
    FRAMES = "frame flood"
    STREAMS = "stream limit"
    SILENT = "silent peer"
    CONNECTIONS = "connection limit"
    WINDOW = "flow control"
    WINDOW_STALL = "window stall"
    COMPRESSION = "compression"
    DISGUISED = "http as opaque"
    ANSWER = "malformed answer"
    ANSWER_SIZE = "answer head too large"
    ENDPOINT = "endpoint protocol error"
    DENIED = "denied"
    UNKNOWN = "unknown caller"
    UNMESHED = "unmeshed caller"


def bound_of(status: int) -> Bound:
    """What a request that is answered so was refused for."""
    return {431: Bound.HEAD_SIZE, 408: Bound.HEAD_TIME}.get(status, Bound.MALFORMED)


class ProxyError(NamedTuple):
    """An answer: its status, the label under which it is counted, and the sentence for the caller."""

    status: int
    label: str
    text: str


class Failure(Enum):
    """The reasons a request or a connection goes no further."""

    NO_ENDPOINT = ProxyError(503, "failfast", "no endpoint of the service can be reached")
    NO_SERVICE = ProxyError(503, "failfast", "there is no such service in the mesh")
    NOT_RESOLVED = ProxyError(504, "failfast", "the service could not be looked up in time")
    SHED = ProxyError(503, "loadshed", "too many requests wait for the service")
    IDENTITY = ProxyError(503, "identity required", "this proxy has no certificate yet")
    NOT_CONNECTED = ProxyError(502, "i/o", "no connection to the service could be made")
    CLOSED = ProxyError(502, "i/o", "the service closed the connection before it answered")
    TIMED_OUT = ProxyError(504, "response timeout", "the service did not answer in time")
    UNREAD = ProxyError(504, Bound.UNREAD, "the service did not read the request in time")
    BAD_RESPONSE = ProxyError(502, Bound.ANSWER, "the service's answer is not well-formed HTTP")
    LARGE_RESPONSE = ProxyError(502, Bound.ANSWER_SIZE, "the head of the service's answer is too large")
    BAD_ENDPOINT = ProxyError(502, Bound.ENDPOINT, "the service does not keep to HTTP/2")
    SILENT = ProxyError(504, Bound.SILENT, "the service's proxy has gone silent")
    LOOP = ProxyError(508, "gateway loop", "the address is this proxy's own")
    NO_CALLER = ProxyError(
        403, "identity required", "the proxy serves several workloads and cannot tell which is calling"
    )
    BAD_REQUEST = ProxyError(400, "unexpected", "the request is not well-formed HTTP/1.1")
    TIMEOUT = ProxyError(408, "i/o", "the request took too long to arrive")


REASONS = {
    400: b"Bad Request", 403: b"Forbidden", 408: b"Request Timeout", 417: b"Expectation Failed",
    431: b"Request Header Fields Too Large", 501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported", 508: b"Loop Detected",
}  # fmt: skip


def response(status: int, text: str, *, close: bool, unsent: bool = False, head_only: bool = False) -> bytes:
    """A whole HTTP/1.1 response of the proxy's own. `unsent` tells another proxy that the request went nowhere."""
    body = text.encode() + b"\n"
    return b"HTTP/1.1 %d %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nl5d-proxy-error: %b\r\n%b%b\r\n%b" % (
        status,
        REASONS[status],
        len(body),
        text.encode(),
        b"l5d-proxy-unsent: true\r\n" if unsent else b"",
        b"connection: close\r\n" if close else b"",
        b"" if head_only else body,
    )


CONNECTION_LOST = frozenset((Failure.CLOSED, Failure.BAD_ENDPOINT, Failure.SILENT))
"""Those that end a connection with all that is under way on it, whatever each request was."""


def of_answer(status: int) -> Failure:
    """Why an answer whose head is refused, with what a request would be answered, is none."""
    return Failure.LARGE_RESPONSE if status == 431 else Failure.BAD_RESPONSE
