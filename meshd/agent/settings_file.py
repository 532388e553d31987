"""Reading `meshd.yaml`: one document of settings, and beside it any number of `Workload` and `Service` documents.

    trustDomain: prod.example        # the settings: the document without `kind`
    ---
    kind: Workload                   # as in conf.d; small hosts keep all in one file

The documents are `discovery.file`'s to read. A file without settings, or with two, is an error.
"""

from pathlib import Path

from meshd.agent.clock import TrustPeriod
from meshd.agent.peer import Access
from meshd.agent.settings import Settings
from meshd.api.loading import ConfigurationError, Finding, convert, parse, read_text


def load_settings(file: Path) -> Settings:
    """The settings in file; ConfigurationError, with every finding, when they are not good."""
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
    settings: Settings = convert(value, Settings, name, label)
    _, findings = Access.of(settings.control.users, name)
    if findings:
        raise ConfigurationError(findings)
    return settings


def read_bundle(settings: Settings, file: str) -> str:
    """The trust bundle that the settings name, PEM."""
    text = _read(Path(settings.ca.bundle), file, "ca.bundle", "copy bundle.pem of the CA there")
    try:
        TrustPeriod(text)
    except ValueError as error:
        message = "holds no certificates (PEM): copy bundle.pem of the CA there"
        raise ConfigurationError([Finding(settings.ca.bundle, message)]) from error
    return text


def read_token(settings: Settings, file: str) -> str:
    """The token that the CA knows this host by."""
    path = Path(settings.ca.token_file or Path(settings.state_dir, "ca.token"))
    token = _read(path, file, "ca.tokenFile", "copy agent.token of the CA there, readable by this user alone").strip()
    if not token:
        raise ConfigurationError([Finding(str(path), "is empty: copy agent.token of the CA there")])
    return token


def _read(path: Path, file: str, setting: str, advice: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigurationError([Finding(file, f"{path}: cannot be read: {reason}: {advice}", setting)]) from error
