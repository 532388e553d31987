"""The text of the table: golden files, which `MESHD_WRITE_GOLDEN=1` writes anew for a person to read and commit."""

import dataclasses
import os
from pathlib import Path

import pytest

from meshd.capture.plan import Group, Listener, Plan, Skips, listener, networks
from meshd.capture.table import declared, digest, removal, render, slice_mark

GOLDEN = Path(__file__).parents[1] / "recordings" / "capture"

FULL = Plan(
    outbound=listener("127.0.0.1:4140"),
    inbound=listener("0.0.0.0:4143"),
    group=Group("meshed.slice", 1, 700),
    uids=(1000, 33),
    exempt=(998, 997),
    ports=(8080, 443),
    virtual=networks(("240.0.0.0/4", "fd00:6d65::/64"), ""),
    skips=Skips((25, 22), networks(("10.0.0.0/8", "10.1.0.0/16", "fd12::/32"), "")),
    by_group=((Group("meshed.slice/meshed-default-web.slice", 2, 701), Skips((5432,), networks(("192.0.2.7",), ""))),),
)

PLANS = {
    "full": FULL,
    "slice-alone": Plan(
        listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), Group("unified/meshed.slice", 1, 7), exempt=(998,)
    ),
    "open": dataclasses.replace(FULL, is_open=True),
    "users-alone": Plan(listener("127.0.0.1:4140"), listener("0.0.0.0:4143"), uids=(1000,), exempt=(998,)),
    "addresses": Plan(
        listener("192.0.2.1:4140"), listener("192.0.2.1:4143"), Group("meshed.slice", 1, 7), ports=(80,), exempt=(998,)
    ),
    "inbound-loopback": Plan(
        listener("127.0.0.1:4140"), listener("127.0.0.1:4143"), Group("meshed.slice", 1, 7), ports=(80,), exempt=(998,)
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_this_text(name: str) -> None:
    file = GOLDEN / f"{name}.nft"
    if os.environ.get("MESHD_WRITE_GOLDEN"):
        file.write_text(declared(PLANS[name]))
    assert declared(PLANS[name]) == file.read_text()


def test_the_table_is_replaced_in_one_transaction() -> None:
    assert render(FULL) == f"{removal()}{declared(FULL)}"


def test_a_slice_that_was_made_anew_is_another_table() -> None:
    again = dataclasses.replace(FULL, group=Group("meshed.slice", 1, 702))
    assert slice_mark(again.group) in declared(again)  # type: ignore[arg-type]
    assert slice_mark(again.group) not in declared(FULL)  # type: ignore[arg-type]
    assert digest(again) != digest(FULL)


def test_equal_plans_are_equal_texts_however_they_are_written() -> None:
    assert declared(dataclasses.replace(FULL, uids=(33, 1000), exempt=(997, 998), ports=(443, 8080))) == declared(FULL)


@pytest.mark.parametrize(
    ("listen", "v4", "v6"),
    [
        ("127.0.0.1:4140", "127.0.0.1:4140", "[::1]:4140"),
        ("0.0.0.0:4143", "0.0.0.0:4143", "[::]:4143"),
        ("192.0.2.1:4143", "192.0.2.1:4143", "None"),
        ("[::1]:4140", "None", "[::1]:4140"),
        ("", "None", "None"),
    ],
)
def test_where_captured_connections_are_led(listen: str, v4: str, v6: str) -> None:
    found = listener(listen)
    assert (str(found.v4), str(found.v6)) == (v4, v6)


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"skip\[1\]: '10.0.0.1/8' is not a network.*host bits"):
        networks(("10.0.0.0/8", "10.0.0.1/8"), "skip")


def test_a_plan_with_nobody_in_it_is_empty() -> None:
    nobody = Plan(Listener(None, None), Listener(None, None), exempt=(998,), skips=Skips((25,)))
    assert nobody.is_empty
    for other in ({"uids": (1,)}, {"ports": (1,)}, {"group": Group("meshed.slice", 1)}):
        assert not dataclasses.replace(nobody, **other).is_empty
