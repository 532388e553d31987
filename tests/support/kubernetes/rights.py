"""What roles and their bindings let service accounts do (RBAC); groups and users are not looked at."""

from collections.abc import Iterator

from tests.support.kubernetes.api import Api
from tests.support.kubernetes.installed import CLUSTER_ROLES, EVERYWHERE, HERE, ROLES
from tests.support.kubernetes.kinds import Object
from tests.support.kubernetes.tokens import Rule


def bound(api: Api, user: str) -> Iterator[Rule]:
    """The rules of `system:serviceaccount:NAMESPACE:NAME`, by what is in the store now."""
    for kind in (EVERYWHERE, HERE):
        for (namespace, _), binding in api.store.all(kind.key).items():
            if any(_is(subject, user, namespace) for subject in binding.get("subjects") or ()):
                yield from _rules(api, binding["roleRef"], namespace)


def _is(subject: Object, user: str, namespace: str) -> bool:
    if subject["kind"] != "ServiceAccount":
        return False
    return user == f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"


def _rules(api: Api, role: Object, namespace: str) -> Iterator[Rule]:
    """Those of a role, in the namespace of what binds it."""
    here = role["kind"] == "Role"
    found = api.store.get((ROLES if here else CLUSTER_ROLES).key, (namespace if here else "", role["name"]))
    for rule in (found or {}).get("rules") or ():
        yield Rule(
            tuple(rule["verbs"]),
            tuple(rule.get("resources") or ()),
            tuple(rule.get("apiGroups") or ()),
            namespace,
            tuple(rule.get("resourceNames") or ()),
        )
