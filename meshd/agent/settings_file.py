"""Reading `meshd.yaml`: one document of settings, and beside it any number of `Workload` and `Service` documents.

    trustDomain: prod.example        # the settings: the document without `kind`
    ---
    kind: Workload                   # as in conf.d; small hosts keep all in one file

The documents are `discovery.file`'s to read, and the files for the CA that settings name, `meshd.agent.credentials`'s.
A file without settings, or with two, is an error.
"""

import logging
from pathlib import Path

from meshd.agent.peer import Access
from meshd.agent.settings import Settings
from meshd.api.loading import ConfigurationError, Finding, convert, parse, read_text

log = logging.getLogger(__name__)


def load_settings(file: Path, trust_domain: str = "") -> Settings:
    """The settings in file; ConfigurationError, with every finding, when they are not good. `trust_domain` is theirs
    where they do not say which, as before a host has joined."""
    name = str(file)
    found = [
        (label, value)
        for label, value in parse(read_text(file), name)
        if not (isinstance(value, dict) and "kind" in value)
    ]
    if not found:
        raise ConfigurationError([Finding(name, "holds no settings: at least `trustDomain: NAME` is needed")])
    if len(found) > 1:
        raise ConfigurationError(
            [
                Finding(name, "settings are one document, and documents have a `kind`", "", label)
                for label, _ in found[1:]
            ]
        )
    label, value = found[0]
    if trust_domain and isinstance(value, dict):
        value = {"trustDomain": trust_domain, **value}
    settings: Settings = convert(value, Settings, name, label)
    _, findings = Access.of(settings.control.users, name)
    if findings:
        raise ConfigurationError(findings)
    return settings


def usable_settings(file: Path) -> Settings:
    """Those in the file; where it is not good, or gone, what they are where nobody writes any: for taking away what is
    there, which is not to wait for a file to be corrected."""
    try:
        return load_settings(file)
    except ConfigurationError as problem:
        if file.exists():
            log.warning("%s: the usual settings are taken for it", problem)
        return Settings(trust_domain="invalid")
