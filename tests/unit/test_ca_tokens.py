"""Join tokens as they are printed: one spelling each, and everything else is refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ca.tokens import MAX_CHARACTERS, MalformedToken, PrintedToken, new_id

TOKEN = PrintedToken("k3v9c2xwab".replace("9", "5"), bytes(range(32)), bytes(range(255, 223, -1)))
TEXT = TOKEN.text()


def test_a_token_says_its_id_and_comes_back_whole() -> None:
    assert TEXT.startswith("meshd-join-v1.k3v5c2xwab.")
    assert PrintedToken.parse(TEXT) == TOKEN


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_every_token_comes_back_whole(secret: bytes, root_hash: bytes) -> None:
    token = PrintedToken(new_id(), secret, root_hash)
    assert PrintedToken.parse(token.text()) == token
    assert len(token.text()) < MAX_CHARACTERS


def test_no_two_are_alike_and_their_secret_is_not_shown() -> None:
    first, second = PrintedToken.new(bytes(32)), PrintedToken.new(bytes(32))
    assert first.id != second.id
    assert first.secret != second.secret
    assert len(first.secret) == 32
    assert str(first.secret) not in repr(first)
    assert TEXT.split(".")[2] not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a join token begins with meshd-join-v1."),
        ("secret", "a join token begins with"),
        ("x" * (MAX_CHARACTERS + 1), "longer than 256 characters"),
        (TEXT.replace("v1", "v2"), r"another version of meshd \(meshd-join-v2\)"),
        (TEXT.upper(), "begins with"),
        (f" {TEXT}", "begins with"),
        (f"{TEXT}\n", "missing or changed"),
        (f"{TEXT}.", "missing or changed"),
        (f"{TEXT}A", "missing or changed"),
        (TEXT[:-1], "missing or changed"),
        (TEXT.replace("k3v5", "k3v"), "missing or changed"),
        (TEXT.replace("k3v5", "k3V5"), "missing or changed"),
        (TEXT.replace(".", "..", 1), "missing or changed"),
        (TEXT[:-2] + "=" + TEXT[-1], "missing or changed"),
        (TEXT[:-2] + "é" + TEXT[-1], "missing or changed"),
        (TEXT[:-2] + "\udcff" + TEXT[-1], "missing or changed"),
        ("٣".join((TEXT[:20], TEXT[21:])), "missing or changed"),
    ],
)
def test_what_is_no_token_is_refused_with_a_reason_that_holds_nothing_of_it(text: str, reason: str) -> None:
    with pytest.raises(MalformedToken, match=reason) as refused:
        PrintedToken.parse(text)
    assert TEXT.split(".")[2] not in str(refused.value)


def test_bits_that_stand_for_nothing_are_refused() -> None:
    """43 characters have 258 bits: of the last one, two say nothing, and are 0."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    last = alphabet[alphabet.index(TEXT[-1]) + 1]
    with pytest.raises(MalformedToken, match="a part of it is changed"):
        PrintedToken.parse(TEXT[:-1] + last)


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=4), st.integers(0, 4))
def test_whatever_becomes_of_a_token_it_is_another_or_none(position: int, put: str, taken: int) -> None:
    """Another than the one it was, never the same in another spelling; and no other error."""
    changed = TEXT[:position] + put + TEXT[position + taken :]
    try:
        parsed = PrintedToken.parse(changed)
    except MalformedToken:
        return
    assert (parsed == TOKEN) == (changed == TEXT)


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        assert PrintedToken.parse(text).text() == text
    except MalformedToken:
        pass
