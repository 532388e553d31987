"""`docs/kubernetes-settings.md`, made from the types in `k8s.settings`, so that it says what they do.

python -m k8s.settings_page > docs/kubernetes-settings.md
"""

from k8s.settings import CONFIG_KEY, CONFIG_MAP, Installation
from meshd.agent.settings_page import table

_HEAD = f"""\
# Settings of an installation in a cluster

The ConfigMap `{CONFIG_MAP}` in the control plane's namespace has them, as YAML, under `{CONFIG_KEY}`. On the command
line they are `--set NAME=VALUE`, as in `--set proxy.cpuRequest=100m`. For what is under `proxy` annotations of a pod or
of its namespace may say otherwise ([kubernetes.md](kubernetes.md)). This page is made from the types that read them
(`python -m k8s.settings_page`).

| setting | type | default | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The page, as Markdown."""
    return _HEAD + table(Installation)


if __name__ == "__main__":
    print(settings_page(), end="")
