"""Installations in a cluster as they are printed: the golden files, of fixed settings and key material.

python -m tests.support.installs

writes the files anew, for somebody to read what became different. VERSION stands there for the version.
"""

from pathlib import Path

from k8s.manifests import objects
from k8s.manifests.identity import KeyMaterial
from k8s.manifests.text import as_yaml
from k8s.settings_text import loaded
from meshd import __version__
from meshd.ca import certificates
from meshd.ca.certificates import ROOT_LIFE_S, Life

FOLDER = Path(__file__).resolve().parents[1] / "recordings" / "install"
ANCHORS = FOLDER / "anchors.pem"

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "ha": {
        "namespace": "mesh", "image": "registry.example/meshd:1", "trustDomain": "prod.example",
        "clusterDomain": "k8s.example", "highAvailability": "true", "replicas": "3", "failurePolicy": "Fail",
        "ca.storageClass": "fast", "ca.storageSize": "5Gi", "proxy.cpuRequest": "100m",
    },
    "external": {"ca.storage": "ephemeral", "ca.logLevel": "debug", "controllerLogLevel": "debug"},
}  # fmt: skip
"""File → settings. In `external` the issuer's Secret is somebody else's."""


def printed(name: str) -> str:
    """What `install` prints for the settings of that name, but for the definitions, which have files of their own."""
    anchors = ANCHORS.read_text()
    keys = KeyMaterial(anchors) if name == "external" else KeyMaterial(anchors, "the chain\n", "the key\n")
    made = objects(loaded("", "", SETTINGS[name]), keys)
    text = as_yaml(each for each in made if each["kind"] != "CustomResourceDefinition")
    return text.replace(f"meshd:{__version__}", "meshd:VERSION").replace(f"version: {__version__}", "version: VERSION")


if __name__ == "__main__":
    if not ANCHORS.exists():
        root = certificates.make_root("prod.example", Life.starting(0.0, 100 * ROOT_LIFE_S / 10))
        ANCHORS.write_bytes(certificates.pem(root.certificate))
    for each in SETTINGS:
        (FOLDER / f"{each}.yaml").write_text(printed(each))
