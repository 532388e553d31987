"""A double of a cluster's API server, honest enough that a client library cannot tell.

`Cluster` is it; `tests/integration/test_kubernetes_double.py` replays what a real one said.
"""

from tests.support.kubernetes.cluster import ADMIN, DELEGATOR, POWERLESS, Cluster
from tests.support.kubernetes.tokens import API_AUDIENCE, Rule, User, jwt

__all__ = ["ADMIN", "API_AUDIENCE", "DELEGATOR", "POWERLESS", "Cluster", "Rule", "User", "jwt"]
