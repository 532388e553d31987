"""Whether the API server could ask the injector, as far as can be seen from the API."""

import base64
import binascii
import time
from collections.abc import Iterator

from cryptography import x509

from k8s.checks import kinds as of
from k8s.cluster import Body, Cluster
from k8s.manifests.webhooks import ADMISSION
from k8s.settings import INJECTOR, Installation
from meshd.agent.check.kinds import Check
from meshd.ca.certificates import Life
from meshd.ca.material import when

_WHICH = (("mutatingwebhookconfigurations", "the injector"), ("validatingwebhookconfigurations", "the validator"))


def checks(cluster: Cluster, settings: Installation) -> Iterator[Check]:
    for plural, name in _WHICH:
        found = cluster.get(f"/apis/{ADMISSION}/{plural}/{INJECTOR}")
        hooks = (found or {}).get("webhooks") or []
        if not hooks:
            hint = "`meshd upgrade | kubectl apply -f -`"
            yield of.WEBHOOK.error(f"there is no {plural.removesuffix('s')} {INJECTOR}", hint, name)
            continue
        yield of.WEBHOOK.well(name)
        yield _trust(hooks[0], name)
    yield _reached(cluster, settings)


def _trust(hook: Body, name: str) -> Check:
    """By the bundle that the controllers put there."""
    hint = "a controller puts its certificate there as it starts: see its log"
    text = hook["clientConfig"].get("caBundle") or ""
    try:
        bundle = x509.load_pem_x509_certificates(base64.b64decode(text, validate=True)) if text else []
    except (ValueError, binascii.Error):
        return of.WEBHOOK_TRUST.error("caBundle cannot be read", hint, name)
    if not bundle:
        return of.WEBHOOK_TRUST.error("there is no caBundle yet: no call can succeed", hint, name)
    ends = max(Life.of(each).not_after for each in bundle)
    if ends <= time.time():
        return of.WEBHOOK_TRUST.error(f"caBundle ended at {when(ends)}", hint, name)
    return of.WEBHOOK_TRUST.well(name)


def _reached(cluster: Cluster, settings: Installation) -> Check:
    where = f"/apis/discovery.k8s.io/v1/namespaces/{settings.namespace}/endpointslices"
    slices = cluster.list(where, {"labelSelector": f"kubernetes.io/service-name={INJECTOR}"})
    ready = [
        endpoint
        for each in slices
        for endpoint in each.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
    ]
    service = f"the Service {settings.namespace}/{INJECTOR}"
    if ready:
        return of.WEBHOOK_REACHED.well(service)
    happens = "no pod is made" if settings.failure_policy == "Fail" else "pods start without one"
    hint = f"see why controllers are not ready; meanwhile {happens} (failurePolicy {settings.failure_policy})"
    return of.WEBHOOK_REACHED.error("it has no endpoint that is ready", hint, service)
