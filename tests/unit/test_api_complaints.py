"""Complaints about peers do not fill the disk."""

import logging

from meshd.api.complaints import BURST, EVERY_S, Dam


def test_a_flood_is_held_back_and_counted() -> None:
    now = 0.0
    dam = Dam(lambda: now)

    def complain() -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "f", 1, "refused %s", ("it",), None)
        return record.getMessage() if dam.filter(record) else None

    assert [complain() for _ in range(BURST + 5)] == ["refused it"] * BURST + [None] * 5
    now = EVERY_S
    assert [complain(), complain()] == ["refused it (5 such lines were left out)", None]
    now = 1000 * EVERY_S
    assert complain() == "refused it (1 such lines were left out)"
    assert [complain() for _ in range(BURST)] == ["refused it"] * (BURST - 1) + [None]
