"""All that is wrong with a value is found at once, each thing with its path."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.documents import Document
from meshd.api.faults import faults

HEAD = {"apiVersion": "meshd.io/v1", "kind": "Workload", "metadata": {"name": "web"}}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (HEAD, []),
        ([1], [": expected `object`, got `array`"]),
        ({"kind": "X"}, ["kind: invalid value 'X'"]),
        ({"kind": "Workload"}, [": missing the field `apiVersion`", ": missing the field `metadata`"]),
        ({**HEAD, "metadata": {"name": "Web"}}, ["metadata: name 'Web' is not a DNS label"]),
        (
            {**HEAD, "metadata": {"nam": "web"}, "more": 1},
            ["metadata: missing the field `name`", "metadata: unknown field `nam`", ": unknown field `more`"],
        ),
        (
            {**HEAD, "spec": {"ports": [{"port": 0}, {"port": 1}, {"port": "x", "protocol": "udp"}], "upstreams": 5}},
            [
                "spec.ports[0].port: expected `int` >= 1",
                "spec.ports[2].port: expected `int`, got `str`",
                "spec.ports[2].protocol: invalid enum value 'udp'",
                "spec.upstreams: expected `array`, got `int`",
            ],
        ),
    ],
)
def test_every_fault_is_found(value: Any, found: list[str]) -> None:
    heard = [f"{fault.path}: {fault.message}" for fault in faults(value, Document)]
    assert len(heard) == len(found)
    assert all(said.startswith(expected) for said, expected in zip(heard, found, strict=True)), heard


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(("Workload", "Service")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("kind", "metadata", "spec", "ports", "port", "name", "x")), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_there_is_a_fault_exactly_when_the_decoder_says_so(value: Any) -> None:
    try:
        msgspec.convert(value, Document)
    except msgspec.ValidationError:
        assert list(faults(value, Document))
    else:
        assert not list(faults(value, Document))
