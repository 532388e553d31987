"""A service's policy as the data path wants it: numbers and sets, worked out once when discovery says it changed."""

from meshd.api.durations import parse_duration
from meshd.api.policy import GRPC_CODES, Policy

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}
"""RFC 9110, section 9.2.2: asking twice is as good as asking once."""

MAX_KEPT_BYTES = 64 << 10
"""A request's body that is kept to be sent again; a longer one is not tried again."""


def _seconds(text: str) -> float:
    return parse_duration(text) if text else 0.0


class Rules:
    """See the module. A time of 0 is none; `timed`: there is any. `retries`: answers are tried again at all, of
    `retry_methods` (None: any)."""

    __slots__ = (
        "budget", "connect_s", "consecutive_failures", "idle_s", "jitter", "max_ejected", "max_penalty_s",
        "max_requests", "max_waiting", "min_penalty_s", "request_s", "response_s", "retries", "retry_grpc",
        "retry_limit", "retry_methods", "retry_statuses", "success_min_requests", "success_threshold",
        "success_window_s", "timed",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        timeouts, retries, accrual = policy.timeouts, policy.retries, policy.failure_accrual
        self.request_s = _seconds(timeouts.request)
        self.response_s = _seconds(timeouts.response)
        self.idle_s = _seconds(timeouts.idle)
        self.connect_s = parse_duration(timeouts.connect)
        self.timed = bool(self.request_s or self.response_s or self.idle_s)
        self.retry_limit = retries.limit
        self.retry_statuses = frozenset(status for word in retries.on for status in _statuses(word))
        self.retry_grpc = frozenset(GRPC_CODES[word] for word in retries.on if word in GRPC_CODES)
        self.retries = bool(retries.limit and retries.on)
        self.retry_methods = {"safe": SAFE, "idempotent": IDEMPOTENT, "all": None}[retries.methods]
        self.budget = (retries.budget.ratio, retries.budget.min_per_second, parse_duration(retries.budget.ttl))
        self.consecutive_failures = accrual.consecutive_failures
        self.success_threshold = accrual.success_rate_threshold
        self.success_window_s = parse_duration(accrual.success_rate_window)
        self.success_min_requests = accrual.success_rate_min_requests
        self.min_penalty_s = parse_duration(accrual.min_penalty)
        self.max_penalty_s = parse_duration(accrual.max_penalty)
        self.jitter = accrual.jitter_ratio
        self.max_ejected = accrual.max_ejected
        self.max_requests = policy.limits.requests
        self.max_waiting = policy.limits.waiting


def _statuses(word: str) -> range:
    if word == "5xx":
        return range(500, 600)
    if word == "gateway-error":
        return range(502, 505)
    return range(int(word), int(word) + 1) if word.isdigit() else range(0)
