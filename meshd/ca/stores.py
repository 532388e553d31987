"""Which store a CA has: SQLite in its directory, or the shared one that its settings name, in Consul or in a cluster.

It is chosen when the CA is made, and the directory says whether it is shared (`ca.db` or `ca.name`): settings that say
otherwise are refused, so that no command looks into another store than the daemon's.
"""

import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshd.api.names import InvalidName, check_label, is_label
from meshd.api.problems import Problem
from meshd.ca import files
from meshd.ca.files import CaFiles
from meshd.ca.settings import MOUNTED, ObjectSettings, StoreSettings
from meshd.ca.source import Unreachable
from meshd.ca.sqlite import SqliteStore
from meshd.ca.store import Store
from meshd.ca.tokens import new_id

if TYPE_CHECKING:
    from meshd.ca.keyed.operations import Keys
    from meshd.ca.keyed.store import KeyedStore

SQLITE: Final = StoreSettings()
"""What there is without settings."""

MAX_HOST: Final = 48
"""Characters of a CA's name that are its host's: all of it is one label."""


def create(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """A new, empty store for the first CA of a trust domain. Problem when there is one, or it cannot be made."""
    if not settings.is_shared:
        return SqliteStore.create(paths.database)
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415 - most CAs do without, and the clients take 10 MB

    return KeyedStore.create(_keys(settings), _named(paths, settings), trust_domain)


def join(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """The store for a CA below the root of another: of shared ones the one that there is; a new one where there is
    none.

    CAs in pods are made with each pod, and the bundle comes with it: a new one is a number of what is believed, by the
    last pod that was replaced at the latest."""
    if not settings.is_shared:
        return SqliteStore.create(paths.database)
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    made = KeyedStore.share(_keys(settings), _named(paths, settings), trust_domain)
    if settings.kubernetes.url:
        _renumber(made)
    return made


def renumber(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> None:
    """Have agents hear of the bundle again, which something other than the store is about to change. Problem when that
    cannot be."""
    if paths.database.exists():
        with closing(SqliteStore.open(paths.database)) as own:
            own.renumber()
        return
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    with closing(open_store(paths, settings, trust_domain)) as shared:
        assert isinstance(shared, KeyedStore)
        _renumber(shared)


def _renumber(shared: "KeyedStore") -> None:
    try:
        shared.renumber()
    except Unreachable as error:
        raise Problem(str(error)) from error


def open_store(paths: CaFiles, settings: StoreSettings, trust_domain: str) -> Store:
    """The one that this CA was made with. Problem when it is missing, damaged, away, or not what the settings say."""
    if paths.name.exists() != settings.is_shared:
        has, said = ("a shared one", "none") if paths.name.exists() else ("ca.db", "a shared one")
        raise Problem(
            f"{paths.directory}: this CA's store is {has}, and the settings name {said}: give those it was made with "
            "(--config)"
        )
    if not settings.is_shared:
        return SqliteStore.open(paths.database)
    from meshd.ca.keyed.store import KeyedStore  # noqa: PLC0415

    name = files.read(paths.name).decode("ascii", "replace").strip()
    if not is_label(name):
        raise Problem(f"{paths.name}: holds no name of a CA: restore it from a copy")
    return KeyedStore.open(_keys(settings), name, trust_domain)


def _keys(settings: StoreSettings) -> "Keys":
    if settings.consul.address:
        from meshd.ca.consul.client import Client  # noqa: PLC0415

        return Client(settings.consul)
    from meshd.ca.objects.api import ApiServer  # noqa: PLC0415
    from meshd.ca.objects.client import ObjectKeys  # noqa: PLC0415

    return ObjectKeys(ApiServer(settings.kubernetes, _namespace(settings.kubernetes)))


def _namespace(settings: ObjectSettings) -> str:
    """The one that the settings name, or that of the pod."""
    if settings.namespace:
        return settings.namespace
    file = Path(MOUNTED) / "namespace"
    found = files.read(file).decode("ascii", "replace").strip()
    try:
        return check_label(found, "namespace")
    except InvalidName as error:
        raise Problem(f"{file}: {error}: name it in store.kubernetes.namespace") from error


def _named(paths: CaFiles, settings: StoreSettings) -> str:
    """A name for the CA in the directory, from now on: by its host, for people, and by chance, since two may be made on
    one. A pod's is the pod's alone: one that takes its place goes on with its audit log's numbers."""
    host = "".join(each if each.isascii() and each.isalnum() else "-" for each in socket.gethostname().split(".")[0])
    name = host.lower().strip("-")[:MAX_HOST].rstrip("-") or "ca"
    if not settings.kubernetes.url:
        name = f"{name}-{new_id()}"
    files.write(paths.name, name.encode() + b"\n")
    return name
