"""What `meshd install` prints: the control plane as objects of Kubernetes, in the order in which they can be made.

`objects` is a function of the installation's settings and its key material, and of nothing else: the same for the same.
Kinds as types are in `k8s.manifests.kinds`, YAML in `k8s.manifests.text`; each component has a module. What a cluster
holds already is the affair of `k8s.cli`.
"""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from k8s import crds
from k8s.manifests import authority
from k8s.manifests.common import PART_OF, of_namespace
from k8s.manifests.controller import controller
from k8s.manifests.identity import CHAIN_KEY, ISSUER_SECRET, PRIVATE_KEY, KeyMaterial
from k8s.manifests.kinds import ConfigMap, Metadata, Object, Secret, manifest
from k8s.manifests.rights import accounts, rights
from k8s.manifests.webhooks import INJECT, webhooks
from k8s.settings import CONFIG_KEY, CONFIG_MAP, Installation
from k8s.settings_text import given
from meshd import __version__

Manifest = dict[str, Any]

VERSION_ANNOTATION: Final = "meshd.io/version"
"""On the ConfigMap: whose manifests were applied last."""

_POD_SECURITY: Final = "pod-security.kubernetes.io"


def objects(settings: Installation, keys: KeyMaterial) -> list[Manifest]:
    """All that an installation consists of. The trust anchors are those of `keys`."""
    settings = replace(settings, trust_anchors=keys.anchors)
    return [
        manifest(_namespace(settings)),
        *definitions(),
        *(manifest(each) for each in _parts(settings, keys)),
    ]


def definitions() -> list[Manifest]:
    """The custom resources."""
    return crds.definitions()


def _parts(settings: Installation, keys: KeyMaterial) -> Iterator[Object]:
    yield from accounts(settings)
    yield from rights(settings)
    configuration = _configuration(settings)
    yield ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=replace(of_namespace(settings, CONFIG_MAP), annotations={VERSION_ANNOTATION: __version__}),
        data=configuration,
    )
    if keys.key:
        yield Secret(
            api_version="v1",
            kind="Secret",
            metadata=of_namespace(settings, ISSUER_SECRET),
            type="kubernetes.io/tls",
            data={CHAIN_KEY: _base64(keys.chain), PRIVATE_KEY: _base64(keys.key)},
        )
    read_by_ca = settings.trust_domain, configuration[authority.SETTINGS_KEY], configuration[authority.ANCHORS_KEY]
    yield from authority.authority(settings, _checksum(*read_by_ca))
    yield from controller(settings, _checksum(configuration[CONFIG_KEY]))
    yield from webhooks(settings)


def _namespace(settings: Installation) -> Object:
    """As strict as pod security can be, and not meshed: the label keeps the injector from being asked, the annotation
    is its answer if it is."""
    labels = {
        **PART_OF,
        INJECT: "disabled",
        f"{_POD_SECURITY}/enforce": "restricted",
        f"{_POD_SECURITY}/audit": "restricted",
        f"{_POD_SECURITY}/warn": "restricted",
    }
    metadata = Metadata(name=settings.namespace, labels=labels, annotations={INJECT: "disabled"})
    return Object(api_version="v1", kind="Namespace", metadata=metadata)


def _configuration(settings: Installation) -> dict[str, str]:
    return {
        CONFIG_KEY: given(settings),
        authority.SETTINGS_KEY: authority.own_settings(settings),
        authority.ANCHORS_KEY: settings.trust_anchors,
    }


def _checksum(*read: str) -> str:
    """What differs when that does: pods read it as they start."""
    return hashlib.sha256(msgspec.json.encode(read)).hexdigest()[:16]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
