"""python -m k8s.crds: write the definitions into their folder."""

from k8s.crds import FOLDER, manifests

for name, text in manifests().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
