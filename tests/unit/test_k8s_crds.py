"""The custom resources' definitions say what the types of documents say."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct, inspect

from k8s import crds
from meshd.api.documents import Service, Workload


class Part(Struct, rename="camel"):
    """A part
    of something."""

    some_port: Annotated[int, Meta(ge=1, le=9)]
    word: str = ""


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (bool, {"type": "boolean"}),
        (Annotated[float, Meta(ge=0.5, description="x")], {"type": "number", "minimum": 0.5}),
        (Literal["b", "a"], {"type": "string", "enum": ["a", "b"]}),
        (tuple[str, ...] | None, {"type": "array", "items": {"type": "string"}, "nullable": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Part, {
            "type": "object",
            "description": "A part of something.",
            "properties": {"somePort": {"type": "integer", "minimum": 1, "maximum": 9}, "word": {"type": "string"}},
            "required": ["somePort"],
        }),
    ],
)  # fmt: skip
def test_a_type_as_a_schema(kind: object, schema: dict[str, object]) -> None:
    assert crds.schema_of(inspect.type_info(kind)) == schema


def test_what_has_no_schema_is_not_passed_over() -> None:
    with pytest.raises(TypeError):
        crds.schema_of(inspect.type_info(bytes))


def test_the_files_are_in_step_with_the_types() -> None:
    """`python -m k8s.crds` writes them."""
    assert {file.name: file.read_text() for file in crds.FOLDER.glob("*.yaml")} == crds.manifests()


@pytest.mark.parametrize(("kind", "required"), [(Service, ["spec"]), (Workload, None)])
def test_the_group_and_version_are_those_of_documents(kind: type[Service | Workload], required: list[str]) -> None:
    definition = crds.definition_of(kind)
    (version,) = definition["spec"]["versions"]
    assert f"{definition['spec']['group']}/{version['name']}" == "meshd.io/v1"
    assert version["schema"]["openAPIV3Schema"].get("required") == required
