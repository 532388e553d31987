"""What `meshd check` looks at in a cluster, by its API alone: nothing is written, and no pod is spoken to.

    api           the API server itself: whether it answers, and its clock
    nodes         the clocks of its nodes
    before        `--pre`: whether an installation could be made
    installation  its settings, definitions, and the control plane's pods
    identity      what the CA signs with
    webhooks      whether the API server could ask the injector
    data_plane    `--proxy`: the pods with sidecars

A section whose ground is missing is not looked at, since the error before it says why.
"""

from k8s.checks import api, before, data_plane, identity, installation, nodes, webhooks
from k8s.checks import kinds as of
from k8s.cluster import Cluster
from meshd.agent.check.kinds import Check
from meshd.api.loading import ConfigurationError
from meshd.api.problems import Problem

_HINT = "see that `kubectl get --raw /version` answers, and with what rights"


def whole(
    kubeconfig: str,
    context: str,
    namespace: str,
    *,
    pre: bool = False,
    pods_in: str | None = None,
    only_if_installed: bool = False,
) -> list[Check]:
    """All of it, for the control plane in `namespace`; with `pods_in` the pods with sidecars in that namespace, or in
    all when it is empty. With `only_if_installed`, nothing where there is no installation, or none that could be asked
    about."""
    found: list[Check] = []
    url = "the kubeconfig's cluster"
    try:
        with Cluster(kubeconfig, context) as cluster:
            url = cluster.url
            found += api.checks(cluster)
            if any(each.result == "error" for each in found):
                return [] if only_if_installed else found
            if only_if_installed and not installation.is_there(cluster, namespace):
                return []
            found += nodes.checks(cluster)
            if pre:
                found += before.checks(cluster, namespace)
            else:
                found += _installed(cluster, namespace, pods_in)
    except Problem as problem:
        if only_if_installed and not found:
            return []
        found.append(of.API_ANSWERS.error(str(problem), _HINT, url))
    return found


def _installed(cluster: Cluster, namespace: str, pods_in: str | None) -> list[Check]:
    try:
        found, checks = installation.settings(cluster, namespace)
    except ConfigurationError as error:
        hint = "correct the ConfigMap, or put it back with `meshd upgrade`"
        return [of.SETTINGS.error(str(error), hint)]
    if found is None:
        return checks
    checks += installation.definitions(cluster)
    checks += installation.control_plane(cluster, found)
    checks += identity.checks(found)
    checks += webhooks.checks(cluster, found.settings)
    if pods_in is not None:
        checks += data_plane.checks(cluster, found, pods_in)
    return checks
