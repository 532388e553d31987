"""`meshd ca status` and `meshd ca bundle`: how a CA is, and what others are to believe of it."""

import sys
import time
from contextlib import closing
from pathlib import Path

import click
import msgspec

from meshd.ca import files, material, stores
from meshd.ca.files import CaFiles
from meshd.ca.settings import SETTINGS_FILE, load
from meshd.ca.summary import Alive, JwtKeyStanding, Standing, Summary, summary
from meshd.cli.ca.common import config_option, state_dir_option
from meshd.cli.output import DOCUMENTS, as_document, output_option
from meshd.view.figures import span


@click.command("status")
@output_option("table", "json", "yaml")
@config_option(SETTINGS_FILE)
@state_dir_option
def status(output: str, config: Path, state_dir: Path) -> None:
    """Show the CA's certificates, and what is in its store.

    Exit status: 0 when all is well, 1 when a certificate is expired, not good yet, or due for renewal, or another CA on
    the store does not agree with this one.
    """
    paths, now = CaFiles(state_dir.absolute()), time.time()
    paths.check()
    settings = load(config.absolute())
    chain, (trust_domain, _) = settings.issuer.chain, material.load_root(paths)
    with closing(stores.open_store(paths, settings.store, trust_domain)) as store:
        found = summary(paths, store, Path(chain) if chain else None, now)
    if output in DOCUMENTS:
        click.echo(as_document(msgspec.to_builtins(found), output), nl=False)
    else:
        click.echo(_text(found, now))
    if found.root.trouble or found.issuer.trouble or any(each.trouble for each in found.authorities):
        sys.exit(1)


@click.command("bundle")
@state_dir_option
def bundle(state_dir: Path) -> None:
    """Print the trust bundle: the roots that everything in the trust domain chains to (PEM)."""
    paths = CaFiles(state_dir.absolute())
    paths.check()
    material.load_root(paths)
    click.echo(files.read(paths.bundle).decode("ascii", "replace"), nl=False)


def _text(found: Summary, now: float) -> str:
    rows = (
        ("trust domain", found.trust_domain),
        ("store", found.store),
        *(("alive", _alive(each)) for each in found.authorities),
        ("root", f"{_until(found.root, now)}; its key is {found.root_key}"),
        ("issuer", _until(found.issuer, now)),
        ("root's key, SHA-256", found.root_hash),
        ("nodes", str(found.nodes)),
        ("valid join tokens", str(found.tokens)),
        ("entries", str(found.entries)),
        ("good certificates", str(found.certificates)),
        ("denied", f"{found.denied} (sequence {found.sequence})"),
        ("last rotation", found.rotation),
        *(("JWT key", _key(each, now)) for each in found.jwt_keys),
    )
    return "\n".join(f"{name + ':':<21}{value}" for name, value in rows)


def _key(key: JwtKeyStanding, now: float) -> str:
    when = f"signs in {span(key.use_at - now)}" if key.state == "published" else f"{key.state}"
    return f"{key.kid} of {key.ca}: {when}, believed for {span(key.not_after - now)}"


def _alive(found: Alive) -> str:
    key = ", with the root's key" if found.has_root_key else ""
    return f"{found.name}, since {material.when(found.begun_at)}{key}{f': {found.trouble}' if found.trouble else ''}"


def _until(standing: Standing, now: float) -> str:
    left = f"good for {span(standing.not_after - now)}" if now < standing.not_after else "expired"
    return f"{left} (until {material.when(standing.not_after)}){f': {standing.trouble}' if standing.trouble else ''}"
