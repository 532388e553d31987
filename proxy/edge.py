"""TLS for callers outside the mesh: what an upstream's listener presents, from files, as any HTTPS server does.

Browsers and curl know no SPIFFE identities: they check a DNS name against the roots they have. TLS 1.2 and 1.3 as in
Mozilla's "intermediate" profile; ALPN offers `h2` and `http/1.1`. Its counterpart is `proxy.mesh.tls`, which is TLS
between proxies.

The files are looked at every few seconds, and read again when they have changed: new connections meet the new
certificate, and open ones go on with theirs. What is wrong with a new file is logged, and the old stays in use.
Sessions are not resumed by ticket, and never across a change of the files: each change is a new context. (OpenSSL keeps
up to 20,480 sessions of TLS 1.2 for two hours besides, which Python has no word against.)
"""

import asyncio
import logging
import os
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from meshd.api.documents import ListenerTls
from meshd.api.loading import ConfigurationError, read_text
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.api.tls import present
from proxy.mesh.identity import life
from proxy.mesh.tls import HANDSHAKE_TIMEOUT_S
from proxy.stats import Stats
from proxy.sweep import Overdue

log = logging.getLogger(__name__)

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those of Mozilla's "intermediate" that need no Diffie-Hellman parameters, and that HTTP/2 may be spoken
with (RFC 9113, section 9.2.2). TLS 1.3 has its own."""
LOOK_S: Final = 2.0
"""How often the files are looked at. They are read when they looked the same twice: a key and its certificate are
seldom written at once."""
SAY_S: Final = 60.0
"""How often it is said at most that handshakes fail: an address that the world can reach is tried by all the world."""

Signature = tuple[tuple[int, int, int] | None, ...]
"""Of each file its inode, size and time of change; None where there is none."""


class BadFile(Problem):
    """A file that cannot be used: `field` of `ListenerTls`, and why."""

    def __init__(self, field: str, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.field = field


class Material(NamedTuple):
    """What the files gave: a context, until when the certificate is good (epoch s), and what to warn of."""

    context: "_Context"
    not_after: float
    warnings: tuple[str, ...]


class _Connection(ssl.SSLObject):
    """The TLS of one connection, for a handshake that fails: the loop tells no protocol of it, so it is counted here,
    and does not send the alert that says why, so it is made to."""

    outgoing: ssl.MemoryBIO  # what is to be sent; its context sets it
    _error: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            made = self.context
            assert isinstance(made, _Context)  # which made this
            made.failed(error)
            if not self.outgoing.pending:
                raise
            self._error = error
            raise ssl.SSLWantReadError from error  # the alert is sent, and the peer closes, says more or is timed out


class _Context(ssl.SSLContext):
    """A context that tells `failed` of handshakes that fail."""

    failed: Callable[[ssl.SSLError], None]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Connection)  # see `read`
        made.outgoing = outgoing
        return made


def read(tls: ListenerTls, *, opaque: bool) -> Material:
    """Read the files and make a context of them; it waits for a child and for the disk. BadFile. With `opaque` no
    protocol is offered: what the caller speaks is not known."""
    chain, key = _text("certificate", tls.certificate), _text("key", tls.key)
    try:
        not_before, not_after = life(chain)
        mode = os.stat(tls.key).st_mode
    except ValueError as error:
        raise BadFile("certificate", tls.certificate, str(error)) from error
    except (OSError, subprocess.SubprocessError) as error:  # it is gone again, or no child can be had
        raise BadFile("certificate", tls.certificate, f"cannot be looked into: {error}") from error
    made = _Context(ssl.PROTOCOL_TLS_SERVER)
    made.sslobject_class = _Connection
    made.failed = lambda error: log.debug("a handshake failed: %s", error)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    made.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.options |= ssl.OP_NO_TICKET  # their key would be as old as the process, and open what was recorded
    made.num_tickets = 0
    if not opaque:
        made.set_alpn_protocols(["h2", "http/1.1"])
    _load(made, tls, chain, key)
    if tls.client_ca is not None:
        _trust(made, tls.client_ca)
    return Material(made, not_after, tuple(_warnings(tls, mode, not_before, not_after)))


def _text(field: str, file: str) -> str:
    try:
        return read_text(Path(file))
    except ConfigurationError as error:
        raise BadFile(field, file, "; ".join(finding.message for finding in error.findings)) from error


def _load(made: ssl.SSLContext, tls: ListenerTls, chain: str, key: str) -> None:
    asked = False

    def passphrase() -> bytes:
        nonlocal asked
        asked = True
        return b""

    try:
        present(made, f"{key}\n{chain}".encode(), passphrase)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or ""
        if asked:
            raise BadFile("key", tls.key, "the key is encrypted, and nobody is there to give its passphrase") from error
        if "MISMATCH" in reason:
            raise BadFile("key", tls.key, f"the key is not that of {tls.certificate}") from error
        if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
            raise BadFile("certificate", tls.certificate, f"OpenSSL refuses it: {_words(reason)}") from error
        raise BadFile("key", tls.key, "not a private key (PEM)") from error


def _trust(made: ssl.SSLContext, client_ca: str) -> None:
    """Let in only callers with a certificate below one of these roots."""
    try:
        made.load_verify_locations(cadata=_text("clientCa", client_ca))
    except (ssl.SSLError, ValueError) as error:
        raise BadFile("clientCa", client_ca, "no certificates (PEM)") from error
    made.verify_mode = ssl.CERT_REQUIRED


def _warnings(tls: ListenerTls, mode: int, not_before: float, not_after: float) -> list[str]:
    found = []
    now = time.time()
    if not_after < now:
        found.append(f"{tls.certificate}: expired at {_date(not_after)}; callers will refuse it")
    elif not_before > now:
        found.append(f"{tls.certificate}: not good before {_date(not_before)}; callers will refuse it")
    if mode & stat.S_IROTH:
        found.append(f"{tls.key}: every user of this host can read the key: chmod o-r")
    return found


def lapsed(certificate: Mapping[str, Any] | None, now: float) -> bool:
    """Whether a caller's certificate (`ssl.SSLObject.getpeercert`) is no longer good at `now` (epoch s). A handshake
    sees to that, but for one that resumes a session, which is checked no more."""
    return bool(certificate) and ssl.cert_time_to_seconds(certificate["notAfter"]) < now  # type: ignore[index]


def _date(seconds: float) -> str:
    return time.strftime("%FT%TZ", time.gmtime(seconds))


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _signature(tls: ListenerTls) -> Signature:
    found: list[tuple[int, int, int] | None] = []
    for _, file in tls.files:
        try:
            status = os.stat(file)
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


class EdgeTls:
    """TLS of one listener, which is at `listen`, for as long as that is wanted. `renew` gives the listener a context
    made of files that have changed."""

    def __init__(
        self, listen: str, tls: ListenerTls, stats: Stats, tasks: Tasks, renew: Callable[[ssl.SSLContext], None], *,
        opaque: bool,
    ) -> None:  # fmt: skip
        self.listen = listen
        self.not_after = 0.0
        self.refreshes: dict[str, int] = {"ok": 0, "error": 0}
        self._tls = tls
        self._opaque = opaque
        self._stats = stats
        self._tasks = tasks
        self._renew = renew
        self._context: ssl.SSLContext | None = None
        self._read: Signature = ()  # what was last read, good or bad
        self._seen: Signature = ()
        self._reading = False
        self._look_at = 0.0
        self.begun = self.established = self.failed = 0  # handshakes; those that are neither are under way, or given up
        self._overdue = Overdue(HANDSHAKE_TIMEOUT_S + 1.0)
        self._unsaid = 0
        self._say_at = 0.0
        self._last = ""

    # --- the files

    async def context(self) -> ssl.SSLContext:
        """What to begin handshakes with. BadFile while there is none."""
        if self._context is None:
            self._take(await self._material())
        assert self._context is not None  # just taken
        return self._context

    async def _material(self) -> Material:
        self._read = _signature(self._tls)  # before they are read: what is written meanwhile is seen as a change
        return await asyncio.to_thread(read, self._tls, opaque=self._opaque)

    def _take(self, material: Material) -> None:
        for warning in material.warnings:
            log.warning("%s", warning)
        material.context.failed = self._handshake_failed
        self._context = material.context
        self.not_after = material.not_after
        self.refreshes["ok"] += 1
        log.info("%s: certificate until %s", self.listen, _date(material.not_after))

    def reread(self) -> None:
        """Read the files again, whatever they look like."""
        if self._context is not None and not self._reading:  # else the listener asks for the first
            self._reading = True
            self._tasks.start(self._reread(), f"certificate of {self.listen}")

    async def _reread(self) -> None:
        try:
            material = await self._material()
        except BadFile as error:
            self.refreshes["error"] += 1
            log.error("%s: the new certificate is not taken, the one before stays in use: %s", self.listen, error)
        else:
            self._take(material)
            self._renew(material.context)
        finally:
            self._reading = False

    def sweep(self, now: float) -> None:
        """See `proxy.sweep.Swept`."""
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            found = _signature(self._tls)
            if found == self._seen and found != self._read:
                self.reread()
            self._seen = found
        self._count(now)

    # --- handshakes

    def accept(self, secured: Callable[[asyncio.Transport, str | None], None]) -> asyncio.Protocol:
        """The protocol for a connection that was accepted. `secured` is told when its handshake is done, with the
        protocol that was agreed on (ALPN), and takes over."""
        self.begun += 1

        def done(transport: asyncio.Transport) -> None:
            self.established += 1
            if lapsed(transport.get_extra_info("peercert"), time.time()):
                self._count_failure("the caller's certificate, of a session that it resumes, has expired")
                transport.abort()
            else:
                secured(transport, transport.get_extra_info("ssl_object").selected_alpn_protocol())

        return _Handshake(done)

    def _handshake_failed(self, error: ssl.SSLError) -> None:
        self.failed += 1
        self._count_failure(getattr(error, "verify_message", "") or _words(error.reason or type(error).__name__))

    def _count_failure(self, why: str, word: str = "tls handshake") -> None:
        self._unsaid += 1
        self._last = why
        self._stats.count_error("outbound", "tcp", word)

    def _count(self, now: float) -> None:
        """Count handshakes that did not end in time, and say now and then how many failed."""
        for _ in range(self._overdue.count(now, self.begun, self.established + self.failed)):
            self._count_failure("not finished in time", "tls handshake timeout")
        if self._unsaid and now >= self._say_at:
            log.warning("%s: %d TLS handshakes failed, the last: %s", self.listen, self._unsaid, self._last)
            self._unsaid = 0
            self._say_at = now + SAY_S


class _Handshake(asyncio.Protocol):
    """A connection whose handshake is under way: it hears of nothing before it is done."""

    def __init__(self, done: Callable[[asyncio.Transport], None]) -> None:
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._done(cast(asyncio.Transport, transport))  # uvloop's do not inherit from it
