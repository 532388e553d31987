"""Which store a CA has: SQLite in its directory, or Consul, where its settings name one.

It is chosen when the CA is made, and the directory says which (`ca.db` or `ca.name`): settings that say otherwise are
refused, so that no command looks into another store than the daemon's.
"""

import socket
from typing import Final

from meshd.api.names import is_label
from meshd.api.problems import Problem
from meshd.ca import files
from meshd.ca.files import CaFiles
from meshd.ca.settings import StoreSettings
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Store
from meshd.ca.tokens import new_id

SQLITE: Final = StoreSettings()
"""What there is without settings."""

MAX_HOST: Final = 48
"""Characters of a CA's name that are its host's: all of it is one label."""


def create(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """A new, empty store for the first CA of a trust domain. Problem when there is one, or it cannot be made."""
    if not settings.consul.address:
        return SqliteStore.create(paths.database)
    from meshd.ca.consul.client import Client  # noqa: PLC0415 - it takes 10 MB, and most CAs do without
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    return KeyedStore.create(Client(settings.consul), _named(paths), trust_domain)


def join(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """The store for a CA below the root of another: in Consul the one that there is; a new one where there is none."""
    if not settings.consul.address:
        return SqliteStore.create(paths.database)
    from meshd.ca.consul.client import Client  # noqa: PLC0415
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    return KeyedStore.share(Client(settings.consul), _named(paths), trust_domain)


def open_store(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """The one that this CA was made with. Problem when it is missing, damaged, away, or not what the settings say."""
    if paths.name.exists() != bool(settings.consul.address):
        has, said = ("Consul", "none") if paths.name.exists() else ("ca.db", "Consul")
        raise Problem(
            f"{paths.directory}: this CA's store is {has}, and the settings name {said}: give those it was made with "
            "(--config)"
        )
    if not settings.consul.address:
        return SqliteStore.open(paths.database)
    from meshd.ca.consul.client import Client  # noqa: PLC0415
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    name = files.read(paths.name).decode("ascii", "replace").strip()
    if not is_label(name):
        raise Problem(f"{paths.name}: holds no name of a CA: restore it from a copy")
    return KeyedStore.open(Client(settings.consul), name, trust_domain)


def _named(paths: CaFiles) -> str:
    """A name for the CA in the directory, from now on: by its host, for people, and by chance, since two may be made on
    one."""
    host = "".join(each if each.isascii() and each.isalnum() else "-" for each in socket.gethostname().split(".")[0])
    name = f"{host.lower().strip('-')[:MAX_HOST] or 'ca'}-{new_id()}"
    files.write(paths.name, name.encode() + b"\n")
    return name
