"""The seam of a place across the network that holds documents: all that Consul's KV store or a cluster has to be.

What such places have in common (last good, on disk, doubt, bounds) is `discovery.remote`'s.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Literal, Protocol, runtime_checkable

from msgspec import Meta

from discovery.backends import Place
from discovery.documents import Placed

Kind = Literal["Service", "Workload"]

Kinds = Annotated[
    tuple[Kind, ...],
    Meta(
        min_length=1,
        description="The kinds of documents that are taken from there. With `Workload`, who may write there says which "
        "processes of this host have which identity, and which of its ports are reached through the mesh.",
    ),
]
"""As a setting."""


class DocumentStore(Protocol):
    """What holds documents in parts: text by origin, which is how operators know the part."""

    @property
    def place(self) -> str:
        """How operators know all of it."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Documents of other kinds are passed over."""

    def follow(self) -> AsyncGenerator[Mapping[str, bytes] | None, None]:
        """All parts, each time that they were read, whether or not they differ; None: there is no such place. Ends by
        Away, and is begun again later."""

    def read(self, origin: str, content: bytes) -> tuple[Placed, ...]:
        """The documents of a part; ConfigurationError. Called in a thread, too."""

    async def close(self) -> None:
        """Give up what it holds."""


@runtime_checkable
class DeclaringSettings(Protocol):
    """The settings of a back end whose registry may hold documents besides services."""

    def documents(self, place: Place) -> DocumentStore | None:
        """What holds them; None where the settings say of none."""
