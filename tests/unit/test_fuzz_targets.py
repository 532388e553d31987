"""What the fuzzer looks for, looked for a little each time: over the targets' seeds, and mutations of them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, Target

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "remove", "repeat"]),
        st.integers(0, 200),
        st.sampled_from([*b'\x00\x01\t\n\r "+,-.0:;=Aa~\x7f\x80\xff']),
    ),
    min_size=1,
    max_size=5,
)


def mutated(data: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for how, place, byte in edits:
        at = place % (len(data) + 1)
        if how == "repeat":
            data = data[:at] + data[at // 2 :]
        else:
            inserted = b"" if how == "remove" else bytes([byte])
            data = data[:at] + inserted + data[at if how == "insert" else at + 1 :]
    return data


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_targets_hold_for_their_seeds_and_what_is_like_them(target: Target) -> None:
    for seed in (b"", *target.seeds):
        target.run(seed)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(st.sampled_from(target.seeds), EDITS)
    def hold(seed: bytes, edits: list[tuple[str, int, int]]) -> None:
        target.run(mutated(seed, edits))

    hold()
