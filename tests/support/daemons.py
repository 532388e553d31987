"""Servers that are not HTTP, real ones, each at a port of 127.0.0.1 and with nothing in it: for tests of opaque bytes.

They refuse to run as root, where a test does: then they run as the user that their package made.
"""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import Root, write
from tests.support.peers import path
from tests.support.ports import accepts, free_port
from tests.support.processes import finished, running


@contextmanager
def _home(user: str) -> Iterator[tuple[Path, str | None]]:
    """A directory of its own for a daemon, and the user that it is to run as; None: whoever runs the test."""
    directory = Path(tempfile.mkdtemp(prefix="meshd-test-"))
    becomes = user if os.geteuid() == 0 else None
    try:
        if becomes is not None:
            os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
        yield directory, becomes
    finally:
        shutil.rmtree(directory)


@contextmanager
def redis() -> Iterator[int]:
    """A Redis that keeps nothing."""
    port = free_port()
    with _home("redis") as (home, user):
        argv = [path("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
        with running(argv, home / "log", lambda: accepts(port), cwd=home, user=user):
            yield port


@contextmanager
def mariadb() -> Iterator[int]:
    """A MariaDB that knows no users, and lets everybody do everything."""
    port = free_port()
    with _home("mysql") as (home, user):
        argv = [
            path("mariadbd"), "--no-defaults", "--skip-grant-tables", "--skip-networking=0", "--bind-address=127.0.0.1",
            f"--port={port}", f"--datadir={home}", f"--socket={home}/socket", f"--pid-file={home}/pid",
        ]  # fmt: skip
        with running(argv, home / "log", lambda: accepts(port), cwd=home, user=user):
            yield port


@contextmanager
def postgres(name: str) -> Iterator[tuple[int, Path]]:
    """A PostgreSQL that trusts everybody, with TLS for those who want it; the certificate is for name, and signed by
    what is in the file."""
    port = free_port()
    with _home("postgres") as (home, user):
        data, root = home / "data", Root()
        initdb = [path("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale"]
        finished(initdb, home / "log", cwd=home, user=user)
        write(root.held(hosts=(name,)), home, "server")
        (home / "root.pem").write_text(root.bundle_pem)
        key = home / "server.key"
        key.chmod(0o600)
        if user is not None:
            os.chown(key, pwd.getpwnam(user).pw_uid, -1)
        options = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "ssl": "on",
            "ssl_cert_file": home / "server.pem", "ssl_key_file": key,
        }  # fmt: skip
        argv = [path("postgres"), "-D", str(data), "-p", str(port)]
        argv += [part for option, value in options.items() for part in ("-c", f"{option}={value}")]
        with running(argv, home / "log", lambda: accepts(port), cwd=home, user=user):
            yield port, home / "root.pem"


@contextmanager
def reversing(name: str) -> Iterator[tuple[int, Path]]:
    """OpenSSL's server, which says every line backwards, and ends with the line CLOSE. The certificate is for name, and
    signed by what is in the file."""
    port, root = free_port(), Root()
    with _home("nobody") as (home, _):
        write(root.held(hosts=(name,)), home, "server")
        (home / "root.pem").write_text(root.bundle_pem)
        argv = [
            path("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(home / "server.pem"), "-key",
            str(home / "server.key"), "-rev",
        ]  # fmt: skip
        with running(argv, home / "log", lambda: accepts(port), cwd=home):
            yield port, home / "root.pem"
