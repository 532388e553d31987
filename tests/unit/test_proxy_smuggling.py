"""Requests that two readers could take for different ones: whatever the form, no endpoint hears a byte of them.

Heads alone are in `test_proxy_heads.py`, those of HTTP/2 and their way down to HTTP/1.1 in `test_proxy_h2_heads.py`;
here the framing is followed by what an attacker would have the endpoint take for a second request.
"""

import pytest

from proxy.errors import Bound
from tests.support.exchanges import Rig

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

FORMS = {
    "TE chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "TE quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "TE comma": POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "TE empty": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "TE space name": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE vt": POST + b"Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
    "TE params": POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "http0.9": b"GET /\r\n\r\n",
    "CL list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "CL twice differ": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "chunk sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk minus": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk underscore": CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n",
    "chunk space before": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "chunk overflow": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk empty": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "chunk lf in ext": CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "chunk cr in ext": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "chunk bare lf": CHUNKED + b"5\nhello\n0\n\n",
    "chunk long data": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "chunk nul ext": CHUNKED + b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "trailer lf": CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n",
    "trailer fold": CHUNKED + b"0\r\nA: b\r\n C: d\r\n\r\n",
    "trailer nul": CHUNKED + b"0\r\nA: \x00\r\n\r\n",
}


@pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS.keys())
def test_nothing_of_it_reaches_an_endpoint(sent: bytes) -> None:
    rig = Rig()
    caller = rig.call()
    caller.says(sent + SMUGGLED)
    assert caller.heard().split(b" ")[1] in (b"400", b"501")
    assert rig.asked == []
    assert [bound for bound, _ in rig.refusals] == [Bound.MALFORMED]
    caller.says(SMUGGLED)
    assert rig.asked == []
    assert caller.is_closing() or caller.half_closed
