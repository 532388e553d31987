"""A back end of discovery as settings have it, made into the sources that it is: its documents, and its services."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from discovery.backends import Place
from discovery.chain import Named
from discovery.file import FileSource
from discovery.following import Following
from discovery.keeping import ContentKeeper, Keeper
from discovery.remote import RemoteDocuments
from discovery.store import DeclaringSettings
from meshd.agent.settings import Discovery


def sources_of(configured: Discovery, *, trust_domain: str, node: str, zone: str, state_dir: Path) -> Iterator[Named]:
    """Of one back end: its documents, where it holds some, and then its services. What was last good of them is kept
    in state_dir. Nothing is read before they are started."""
    name = configured.called
    if configured.file is not None:
        yield Named(name, FileSource(Path(configured.file.path), trust_domain))
        return
    remote = configured.remote
    assert remote is not None
    place = Place(name, trust_domain, node, zone)
    scope = hashlib.sha256(msgspec.json.encode((configured, trust_domain))).hexdigest()
    kept = state_dir / "discovery"
    if isinstance(remote, DeclaringSettings) and (store := remote.documents(place)) is not None:
        yield Named(name, RemoteDocuments(store, ContentKeeper(kept / f"{name}.config.json", scope), trust_domain))
    yield Named(name, Following(remote.registry(place), Keeper(kept / f"{name}.json", scope), keep_s=configured.keep_s))
