"""`meshd ca init` and `sign-intermediate`: a CA is made, whole, or in two parts of which one stays offline."""

import os
import secrets
import time
from pathlib import Path

import click
from cryptography import x509

from meshd.api.problems import Misuse, Problem
from meshd.ca import certificates, external, files, material, passphrase
from meshd.ca.audit import AuditLog
from meshd.ca.authority import Authority, create_root
from meshd.ca.certificates import ISSUER_LIFE_S, Life
from meshd.ca.files import CaFiles
from meshd.ca.registrar import operator
from meshd.ca.settings import SETTINGS_FILE, load
from meshd.cli.ca.common import config_option, passphrase_option, state_dir_option
from meshd.cli.durations import Duration


@click.command("init")
@click.option("--trust-domain", required=True, help="What the CA is for, as in prod.example.")
@click.option(
    "--shared-token",
    is_flag=True,
    help="Also make a token that all agents share: who has it may have any workload's identity.",
)
@click.option("--root-only", is_flag=True, help="Make a root alone, to be kept offline and to sign intermediates with.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Make a CA below the roots in this file (PEM): its issuer is signed, or made, where they are.",
)
@click.option(
    "--again",
    is_flag=True,
    help="With --bundle, for what starts a CA each time: where it was made already, leave it, but for the roots "
    "that it believes, which are those in the bundle from then on. Not while it runs.",
)
@config_option(SETTINGS_FILE)
@passphrase_option
@state_dir_option
def init(
    trust_domain: str,
    shared_token: bool,
    root_only: bool,
    bundle: Path | None,
    again: bool,
    config: Path,
    passphrase_file: Path | None,
    state_dir: Path,
) -> None:
    """Make a CA: root, issuer, store. Hosts then join with tokens (`meshd ca token create`).

    What is there already is never overwritten, but for the trust bundle with --again.
    """
    if shared_token + root_only + (bundle is not None) > 1:
        raise Misuse("--shared-token, --root-only and --bundle do not go together")
    if again and bundle is None:
        raise Misuse("--again goes with --bundle")
    directory, secret, now = state_dir.absolute(), passphrase.read(passphrase_file, os.environ), time.time()
    if root_only:
        create_root(directory, trust_domain, now, secret)
        click.echo(_root_made(directory, trust_domain))
    elif bundle is not None and again and CaFiles(directory).exist():
        changed = Authority.believe(directory, trust_domain, files.read(bundle), load(config.absolute()).store)
        now_believes = "it believes other roots from now on" if changed else "nothing is to be done"
        click.echo(f"A CA for the trust domain {trust_domain} is in {directory}: {now_believes}")
    elif bundle is not None:
        Authority.create_below(directory, trust_domain, files.read(bundle), secret, load(config.absolute()).store)
        click.echo(_below_made(CaFiles(directory), trust_domain))
    else:
        shared = "meshd-agent-" + secrets.token_urlsafe(32) if shared_token else ""
        store = load(config.absolute()).store
        Authority.create(directory, trust_domain, now, shared, passphrase=secret, store=store).close()
        click.echo(_made(CaFiles(directory), trust_domain, shared_token))


@click.command("sign-intermediate")
@click.argument("csr", type=click.Path(path_type=Path))
@click.option(
    "--ttl",
    type=Duration(least_s=3600, most_s=10 * 365 * 86400.0),
    default=f"{ISSUER_LIFE_S / 3600:.0f}h",
    show_default=True,
    help="How long it is good; never longer than the root.",
)
@passphrase_option
@state_dir_option
def sign_intermediate(csr: Path, ttl: float, passphrase_file: Path | None, state_dir: Path) -> None:
    """Sign the issuer of a CA that is elsewhere, by the request in the file CSR, with the root that is here.

    The certificate goes to standard output: it is to be that CA's issuer.pem.
    """
    paths = CaFiles(state_dir.absolute(), passphrase.read(passphrase_file, os.environ))
    paths.check()
    now = time.time()
    trust_domain, _ = material.load_root(paths)
    try:
        request = x509.load_pem_x509_csr(files.read(csr))
    except ValueError as error:
        raise Problem(f"{csr}: holds no certificate request (PKCS #10) in PEM") from error
    root = material.load_root_pair(paths, now)
    made = external.certify(root, trust_domain, request, Life.starting(now, ttl))
    until, serial = Life.of(made).not_after, certificates.serial(made)
    AuditLog(paths.audit).write(
        now,
        None,
        "sign-intermediate",
        "issued",
        operator(),
        identity=f"spiffe://{trust_domain}",
        serial=serial,
        until=until,
    )
    click.echo(certificates.pem(made).decode(), nl=False)
    click.echo(f"an issuer of {trust_domain}, until {material.when(until)}, serial {serial}", err=True)


def _made(paths: CaFiles, trust_domain: str, shared_token: bool) -> str:
    shared = """
  agent.token   a token that all agents share, for hosts that do not join: copied there as /var/lib/meshd/ca.token,
                mode 0600, beside bundle.pem as /etc/meshd/bundle.pem; secret"""
    return f"""\
A CA for the trust domain {trust_domain} is in {paths.directory}:

  bundle.pem    the trust bundle: its root, for 10 years; not secret
  root.key      the root's key; secret: keep a copy where this host's loss does not reach
  issuer.key    the issuer's key and certificate; renewed by the CA itself
  jwt.key       the key of JWT-SVIDs; changed by the CA itself
{_store_made(paths)}{shared if shared_token else ""}

{_next(paths)}"""


def _root_made(directory: Path, trust_domain: str) -> str:
    return f"""\
A root for the trust domain {trust_domain} is in {directory}:

  bundle.pem    its certificate, for 10 years; not secret
  root.key      its key; secret: keep it offline, and a copy of it elsewhere

Next:

  1. Where the CA runs:   meshd ca init --trust-domain {trust_domain} --bundle bundle.pem
  2. Here:                meshd ca sign-intermediate issuer.csr --state-dir {directory} > issuer.pem
"""


def _below_made(paths: CaFiles, trust_domain: str) -> str:
    return f"""\
A CA for the trust domain {trust_domain} is in {paths.directory}, and its root is elsewhere:

  bundle.pem    the trust bundle; not secret
  issuer.key    the issuer's key; secret
  issuer.csr    what its certificate is asked for with; not secret
{_store_made(paths)}

First: where the root is, `meshd ca sign-intermediate issuer.csr`; what it prints is to be {paths.issuer_chain}.
Or let the settings name the files of an issuer that something else renews: issuer: {{key: …, chain: …}}

{_next(paths)}"""


def _store_made(paths: CaFiles) -> str:
    what = "what was issued, who may join, and who may have what"
    if not paths.name.exists():
        return f"  ca.db         {what}"
    return f"  ca.name       how the other CAs know this one; {what} is in the store"


def _next(paths: CaFiles) -> str:
    return f"""\
Next:

  1. Run it:          meshd ca serve --state-dir {paths.directory}
                      with --name NAME for each name that hosts reach this one by
  2. For each host:   meshd ca token create --state-dir {paths.directory} --node HOST --workload NAMESPACE/NAME
  3. On that host:    meshd join https://NAME:4180 --token TOKEN
"""
