"""The objects that the store consists of, as the API server has them: custom resources of one kind (`k8s/crds`)."""

import base64
from typing import Final

from msgspec import Struct

from meshd.api.documents import API_VERSION

KIND: Final = "CaRecord"
PLURAL: Final = "carecords"

LABEL: Final = "meshd.io/record"
"""What sort of record it is: by it they are listed."""


class Value(Struct, frozen=True, omit_defaults=True):
    """What is under a key, and the number of the transaction by which it came there. Text where it is some, else
    base64; neither where it is in an object of its own."""

    index: int
    text: str | None = None
    data: str | None = None
    session: str = ""

    @classmethod
    def of(cls, content: bytes, index: int, session: str = "") -> "Value":
        try:
            return cls(index, text=content.decode(), session=session)
        except UnicodeDecodeError:
            return cls(index, data=base64.b64encode(content).decode(), session=session)

    @property
    def content(self) -> bytes:
        """ValueError when it cannot be read."""
        return base64.b64decode(self.data, validate=True) if self.data is not None else (self.text or "").encode()


class Change(Struct, frozen=True, omit_defaults=True):
    """What a transaction does to one key of an object: None takes it out."""

    object: str
    label: str
    key: str
    value: Value | None = None


class Session(Struct, frozen=True):
    """Of a CA that runs; `renewed` by the API server's clock."""

    id: str
    renewed: float
    ttl_s: int


class Spec(Struct, frozen=True, omit_defaults=True):
    """`number` is that of the last transaction that changed it. `journal`, in the object that all transactions go
    through, is what the last one changes in others."""

    number: int = 0
    values: dict[str, Value] = {}
    journal: tuple[Change, ...] = ()
    session: Session | None = None


class Metadata(Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    labels: dict[str, str] = {}
    resource_version: str = ""


class Record(Struct, frozen=True, rename="camel"):
    """An object. With no `resourceVersion` it is not there yet."""

    metadata: Metadata
    spec: Spec = Spec()
    api_version: str = API_VERSION
    kind: str = KIND

    @property
    def name(self) -> str:
        return self.metadata.name

    def with_spec(self, spec: Spec) -> "Record":
        return Record(self.metadata, spec)


def new(name: str, label: str, spec: Spec) -> Record:
    return Record(Metadata(name, {LABEL: label, "app.kubernetes.io/part-of": "meshd"}), spec)
