"""One question to one DNS server, and its answer: by UDP, and by TCP where it does not fit or cannot be trusted.

What makes an answer hard to forge for somebody who does not see the question: a random id, a port of the kernel's
choosing for each question, a socket that is connected, so that the kernel drops what does not come from the server's
address and port, and a question that the answer has to repeat. Whoever guesses anyhow is heard `MAX_STRAYS` times and
no more; then the question is asked by TCP, where guessing is harder by another 32 bits.

A connected socket also hears of a server that is not there at once, from ICMP, and not when a time-out is over.
"""

import asyncio
import struct
from typing import Any

import dns.exception
import dns.message

from meshd.api.names import Address

MAX_UDP_BYTES = 1232
"""What is asked for at most in a datagram: it fits the smallest MTU of IPv6, and fragments could be forged."""

MAX_STRAYS = 8
"""Datagrams to the port of one question that are no answer to it."""

_LENGTH = struct.Struct("!H")


class Unanswered(Exception):
    """The server gave no answer that can be read; the message says how that was."""


async def ask(server: Address, question: dns.message.QueryMessage, timeout_s: float) -> dns.message.Message:
    """The answer of server to question, whatever its code; Unanswered when there is none in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _by_udp(server, question) or await _by_tcp(server, question)
    except TimeoutError:
        raise Unanswered(f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise Unanswered(error.strerror or str(error)) from error


async def _by_udp(server: Address, question: dns.message.QueryMessage) -> dns.message.Message | None:
    """None: it is to be asked by TCP."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[dns.message.Message | None] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(question, answer), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(question.to_wire())
        return await answer
    finally:
        transport.abort()


class _Datagrams(asyncio.DatagramProtocol):
    """What comes to the port of one question, until its answer is there."""

    def __init__(self, question: dns.message.QueryMessage, answer: asyncio.Future[dns.message.Message | None]) -> None:
        self._question, self._answer = question, answer
        self._strays = 0

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:  # noqa: ARG002 - connected: the server's
        if self._answer.done():
            return
        found: dns.message.Message | None = None
        try:
            found = answered = dns.message.from_wire(data, raise_on_truncation=True)
        except dns.message.Truncated as error:
            answered = error.message()  # type: ignore[no-untyped-call]
        except dns.exception.DNSException:
            answered = None
        if answered is not None and self._question.is_response(answered):
            self._answer.set_result(found)
            return
        self._strays += 1
        if self._strays == MAX_STRAYS:
            self._answer.set_result(None)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _by_tcp(server: Address, question: dns.message.QueryMessage) -> dns.message.Message:
    """RFC 1035, section 4.2.2: a length of two bytes, then the message."""
    wire = question.to_wire()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(_LENGTH.pack(len(wire)) + wire)
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        answered = dns.message.from_wire(await reader.readexactly(length))
    except EOFError:
        raise Unanswered("the connection ended in place of an answer") from None
    except dns.exception.DNSException as error:
        raise Unanswered(f"its answer by TCP cannot be read: {error}") from error
    finally:
        writer.transport.abort()
    if not question.is_response(answered):
        raise Unanswered("its answer by TCP is not to what was asked")
    return answered
