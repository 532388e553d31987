"""The DNS back end before a server that answers what it should not, or somebody who answers in its place."""

import asyncio
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from discovery.dns.exchange import MAX_STRAYS
from discovery.dns.resolver import MAX_ALIASES, UNKNOWN_TTL_S
from discovery.registry import Away
from tests.support.aio import run
from tests.support.nameservers import Answers, Impostor, framed
from tests.support.resolvers import Known

RIGHT = "192.0.2.1"
WRONG = "203.0.113.66"


def answered(
    question: dns.message.Message, *records: str, code: dns.rcode.Rcode = dns.rcode.NOERROR
) -> dns.message.Message:
    """The answer with these records, each as in a zone file with its whole name."""
    answer = dns.message.make_response(question, recursion_available=True)
    answer.set_rcode(code)
    for record in records:
        name, ttl, kind, data = record.split(maxsplit=3)
        answer.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return answer


def right(question: dns.message.Message) -> Iterable[bytes]:
    kind = question.question[0].rdtype
    yield answered(question, *([f"web.example. 60 A {RIGHT}"] if kind == dns.rdatatype.A else [])).to_wire()


def wrong(question: dns.message.Message) -> dns.message.Message:
    return answered(question, f"{question.question[0].name} 60 A {WRONG}")


def nothing(question: dns.message.Message) -> Iterable[bytes]:
    return ()


def another_id(question: dns.message.Message) -> Iterable[bytes]:
    answer = wrong(question)
    answer.id ^= 1
    yield answer.to_wire()


def another_name(question: dns.message.Message) -> Iterable[bytes]:
    other = dns.message.make_query("other.example.", "A", id=question.id)
    yield answered(other, f"web.example. 60 A {WRONG}").to_wire()


def another_type(question: dns.message.Message) -> Iterable[bytes]:
    other = dns.message.make_query("web.example.", "TXT", id=question.id)
    yield answered(other, f"web.example. 60 A {WRONG}").to_wire()


def no_question(question: dns.message.Message) -> Iterable[bytes]:
    answer = wrong(question)
    answer.question = []
    yield answer.to_wire()


def a_question(question: dns.message.Message) -> Iterable[bytes]:
    answer = wrong(question)
    answer.flags &= ~dns.flags.QR
    yield answer.to_wire()


def another_opcode(question: dns.message.Message) -> Iterable[bytes]:
    answer = wrong(question)
    answer.set_opcode(dns.opcode.NOTIFY)
    yield answer.to_wire()


def cut(question: dns.message.Message) -> Iterable[bytes]:
    yield wrong(question).to_wire()[:-3]


def followed_by_more(question: dns.message.Message) -> Iterable[bytes]:
    yield wrong(question).to_wire() + b"more"


def noise(question: dns.message.Message) -> Iterable[bytes]:
    yield from (b"", b"\x00", question.id.to_bytes(2, "big") + b"\xff" * 60, b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    "forged",
    [another_id, another_name, another_type, no_question, a_question, another_opcode, cut, followed_by_more, noise],
)
def test_a_datagram_that_is_no_answer_to_the_question_is_passed_over(forged: Answers) -> None:
    def both(question: dns.message.Message) -> Iterable[bytes]:
        yield from forged(question)
        yield from right(question)

    async def main() -> None:
        async with Impostor(both, nothing).running() as impostor:
            found = await Known(impostor.address).look_up("web.example", "A")
            assert [str(each) for each in found.records] == [RIGHT]
            assert (len(impostor.asked), impostor.asked_by_tcp) == (1, 0)

    run(main())


def test_who_guesses_too_often_has_the_question_asked_by_tcp() -> None:
    def guesses(question: dns.message.Message) -> Iterable[bytes]:
        yield from [*another_id(question)] * MAX_STRAYS
        yield wrong(question).to_wire()

    async def main() -> None:
        by_tcp = lambda question: map(framed, right(question))  # noqa: E731
        async with Impostor(guesses, by_tcp).running() as impostor:
            found = await Known(impostor.address).look_up("web.example", "A")
            assert [str(each) for each in found.records] == [RIGHT]
            assert impostor.asked_by_tcp == 1

    run(main())


def truncated(question: dns.message.Message) -> Iterable[bytes]:
    answer = wrong(question)
    answer.flags |= dns.flags.TC
    yield answer.to_wire()


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (nothing, "the connection ended in place of an answer"),
        (lambda question: [b"\x00\x40" + b"x" * 10], "the connection ended in place of an answer"),
        (lambda question: [framed(b"x" * 64)], "its answer by TCP cannot be read"),
        (lambda question: map(framed, another_id(question)), "its answer by TCP is not to what was asked"),
        (lambda question: map(framed, another_name(question)), "its answer by TCP is not to what was asked"),
    ],
)
def test_an_answer_by_tcp_is_held_to_the_same(stream: Answers, said: str) -> None:
    async def main() -> None:
        async with Impostor(truncated, stream).running() as impostor:
            found = await Known(impostor.address).look_up("web.example", "A")
            assert (found.records, said in found.trouble) == ((), True), found

    run(main())


def with_code(code: dns.rcode.Rcode) -> Answers:
    return lambda question: [answered(question, code=code).to_wire()]


def referral(question: dns.message.Message) -> Iterable[bytes]:
    answer = answered(question)
    answer.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
    yield answer.to_wire()


def loop_in_one(question: dns.message.Message) -> Iterable[bytes]:
    yield answered(question, "web.example. 60 CNAME b.example.", "b.example. 60 CNAME web.example.").to_wire()


def ever_on(question: dns.message.Message) -> Iterable[bytes]:
    name = question.question[0].name
    yield answered(question, f"{name} 60 CNAME x{name}").to_wire()


def not_there_and_yet(question: dns.message.Message) -> Iterable[bytes]:
    yield answered(question, f"web.example. 60 A {WRONG}", code=dns.rcode.NXDOMAIN).to_wire()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (with_code(dns.rcode.SERVFAIL), "SERVFAIL"),
        (with_code(dns.rcode.REFUSED), "REFUSED"),
        (with_code(dns.rcode.NOTIMP), "NOTIMP"),
        (with_code(dns.rcode.YXDOMAIN), "YXDOMAIN"),
        (referral, "it refers to other servers"),
        (loop_in_one, "the answer makes no sense: ChainTooLong"),
        (ever_on, f"more than {MAX_ALIASES} aliases"),
        (not_there_and_yet, "the answer makes no sense: AnswerForNXDOMAIN"),
    ],
)
def test_an_answer_that_says_nothing_is_no_news(answers: Answers, said: str) -> None:
    """Neither "there is none" nor the wrong thing: what was known stays, and the trouble is told."""
    now: list[Answers] = [right]

    def as_now(question: dns.message.Message) -> Iterable[bytes]:
        return now[0](question)

    async def main() -> None:
        async with Impostor(as_now, nothing).running() as impostor:
            known = Known(impostor.address)
            assert await known.places("web.example") == [f"{RIGHT}:80"]
            now[0] = answers
            known.clock.now += 61
            found = await known.look_up("web.example", "A")
            assert [str(each) for each in found.records] == [RIGHT]
            assert said in found.trouble
            with pytest.raises(Away, match=said):
                await known.read("web.example")
            now[0] = right
            known.clock.now += UNKNOWN_TTL_S
            assert await known.places("web.example") == [f"{RIGHT}:80"]

    run(main())


def test_a_server_that_does_not_know_edns_is_asked_without() -> None:
    def old(question: dns.message.Message) -> Iterable[bytes]:
        return right(question) if question.edns < 0 else with_code(dns.rcode.FORMERR)(question)

    async def main() -> None:
        async with Impostor(old, nothing).running() as impostor:
            assert await Known(impostor.address).places("web.example") == [f"{RIGHT}:80"]

    run(main())


def test_records_of_another_name_than_was_asked_for_are_not_believed() -> None:
    def beside(question: dns.message.Message) -> Iterable[bytes]:
        answer = answered(question, f"web.example. 60 A {RIGHT}", f"db.example. 60 A {WRONG}")
        answer.additional.append(dns.rrset.from_text("db.example.", 60, "IN", "A", WRONG))
        yield answer.to_wire()

    async def main() -> None:
        async with Impostor(beside, nothing).running() as impostor:
            known = Known(impostor.address)
            found = await known.look_up("web.example", "A")
            assert [str(each) for each in found.records] == [RIGHT]
            await known.look_up("db.example", "A")
            assert [str(each.question[0].name) for each in impostor.asked] == ["web.example.", "db.example."]

    run(main())


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.dns.resolver.TRY_S", 0.05)

    async def main() -> None:
        async with Impostor(nothing, nothing).running() as impostor:
            known = Known(impostor.address)
            with pytest.raises(Away, match=r"no answer within 0\.05 s"):
                await known.read("web.example")
            with pytest.raises(Away, match=r"no answer within 0\.05 s"):
                await known.registry.probe()

    run(main())


def test_ids_and_ports_differ_from_question_to_question() -> None:
    async def main() -> None:
        async with Impostor(right, nothing).running() as impostor:
            known = Known(impostor.address)
            for number in range(40):
                await known.look_up(f"{number}.example", "A")
            assert len({each.id for each in impostor.asked}) > 30
            assert len(impostor.askers) > 30

    run(main())


def test_a_question_that_nobody_waits_for_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with Impostor(nothing, nothing).running() as impostor:
            known = Known(impostor.address)
            asking = asyncio.get_running_loop().create_task(known.look_up("web.example", "A"))
            while not impostor.asked:
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    run(main())


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.dns.resolver.MAX_KEPT", 20)

    def four(question: dns.message.Message) -> Iterable[bytes]:
        name = question.question[0].name
        yield answered(question, *(f"{name} 60 A 192.0.2.{number}" for number in range(1, 5))).to_wire()

    async def main() -> None:
        async with Impostor(four, nothing).running() as impostor:
            known = Known(impostor.address)
            for asked in ("a", "b", "c", "d", "a", "e", "b", "a", "d"):
                assert len((await known.look_up(f"{asked}.example", "A")).records) == 4
            names = [str(each.question[0].name)[0] for each in impostor.asked]
            assert names == ["a", "b", "c", "d", "e", "a"], "four of them fit"

    run(main())


def test_one_family_of_addresses_is_better_than_none() -> None:
    """There are name servers that answer questions for AAAA records with failures (RFC 4074)."""

    def four_alone(question: dns.message.Message) -> Iterable[bytes]:
        is_four = question.question[0].rdtype == dns.rdatatype.A
        return right(question) if is_four else with_code(dns.rcode.SERVFAIL)(question)

    async def main() -> None:
        async with Impostor(four_alone, nothing).running() as impostor:
            assert await Known(impostor.address).places("web.example") == [f"{RIGHT}:80"]

    run(main())
