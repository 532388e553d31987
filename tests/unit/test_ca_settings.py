"""The CA's settings: what is refused, and in which words."""

from pathlib import Path

import pytest

from meshd.api.loading import ConfigurationError
from meshd.ca.settings import CaDaemonSettings, load

SECRET = "5f1c0de5-0000-4000-8000-123456789abc"


def written(directory: Path, consul: str) -> Path:
    file = directory / "ca.yaml"
    file.write_text(f"store: {{consul: {{{consul}}}}}\n")
    return file


@pytest.mark.parametrize(
    "consul",
    [
        "",
        'address: "http://127.0.0.1:8500"',
        'address: "http://localhost:8500/", token: x, prefix: mesh/ca_1',
        'address: "http://[::1]:8500", datacenter: dc2',
        'address: "https://consul.example:8501", ca: /ca.pem, certificate: /c.pem, key: /k.pem, tokenFile: /token',
    ],
)
def test_a_consul_is_taken(consul: str, tmp_path: Path) -> None:
    assert isinstance(load(written(tmp_path, consul)), CaDaemonSettings)


@pytest.mark.parametrize(
    ("consul", "said"),
    [
        ('address: "127.0.0.1:8500"', "is not http://HOST:PORT or https://HOST:PORT"),
        ('address: "http://127.0.0.1"', "is not http://HOST:PORT or https://HOST:PORT"),
        ('address: "http://127.0.0.1:8500/v1"', "is not http://HOST:PORT or https://HOST:PORT"),
        ('address: "unix:///run/consul.sock"', "is not http://HOST:PORT or https://HOST:PORT"),
        ('address: "http://consul.example:8500"', "is not on this host, so it has to be https"),
        ('address: "http://192.0.2.1:8500"', "is not on this host, so it has to be https"),
        ('address: "https://consul.example:8501"', "ca: must be given with https"),
        (f'token: "{SECRET}", tokenFile: /token', "token and tokenFile do not go together"),
        (f'token: "{SECRET}\\n"', "token and tokenFile are each one line"),
        ("certificate: /c.pem", "certificate and key go together"),
        ('prefix: ""', "prefix"),
        ("prefix: /meshd", "is not letters, digits, dots, underscores and dashes between slashes"),
        ("prefix: meshd/", "is not letters, digits, dots, underscores and dashes between slashes"),
        ("prefix: meshd/ä", "is not letters, digits, dots, underscores and dashes between slashes"),
        ("adress: x", "adress"),
    ],
)
def test_what_is_wrong_with_a_consul_is_said(consul: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(written(tmp_path, consul))
    assert said in str(refused.value)
    assert str(tmp_path / "ca.yaml") in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_token_is_in_no_representation(tmp_path: Path) -> None:
    assert SECRET not in repr(load(written(tmp_path, f'address: "http://127.0.0.1:8500", token: "{SECRET}"')))
