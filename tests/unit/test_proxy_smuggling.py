"""Requests that two readers could take for different ones: whatever the form, no endpoint hears a byte of them.

Heads alone are in `test_proxy_heads.py`, those of HTTP/2 and their way down to HTTP/1.1 in `test_proxy_h2_heads.py`;
here each is followed by what an attacker would have the endpoint take for a second request.
"""

import pytest

from proxy.errors import Bound
from tests.support.exchanges import Rig
from tests.support.smuggling import HTTP1, SMUGGLED


@pytest.mark.parametrize("sent", HTTP1.values(), ids=HTTP1.keys())
def test_nothing_of_it_reaches_an_endpoint(sent: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(sent + SMUGGLED)
    assert caller.heard().split(b" ")[1] in (b"400", b"417", b"501", b"505")
    assert rig.asked == []
    assert [bound for bound, _ in rig.refusals] == [Bound.MALFORMED]
    caller.says(SMUGGLED)
    assert rig.asked == []
    assert caller.is_closing() or caller.half_closed
