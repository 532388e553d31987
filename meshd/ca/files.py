"""The CA's state directory: what is where, and how it gets there.

    root.key      the root's private key        issuer.key    the issuer's key and its certificate, which change
    bundle.pem    the trust bundle: the root                  together and so are one file

Where the root is elsewhere (`meshd.ca.external`) there is no root.key, and

    trust-domain  what the CA is for, since someone else's root need not say it
    issuer.key    the issuer's private key alone               issuer.csr    what its certificate is asked for with
    issuer.pem    its certificate, put there by who has the root

In either case

    issuer.next   an issuer that was asked for, where several CAs share a store (`meshd.ca.sharing`)
    roots.json    the roots that were taken from there last
    root.next     while roots change: the other root, with its key (`meshd.ca.material`)
    jwt.key       the private key of JWT-SVIDs; jwt.next the one that follows it (`meshd.ca.jwt_keys`)
    ca.db         what was issued (`meshd.ca.store`); where that is shared there is instead
    ca.name       what the other CAs on that store know this one by
    agent.token   what agents prove themselves with; only to be copied from, the CA knows its hash
    audit.log     who asked for what (`meshd.ca.audit`)

A file is written whole or not at all (temporary file, fsync, rename); those with secrets are 0600, the directory is
0700. While a CA is being made the directory holds `incomplete`: what an interrupted `init` left can be told from a CA
that lost a file, and only the former is ever made anew.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from meshd.api.problems import Problem, remedy


class CaFiles:
    """The files in one state directory; with a passphrase, the keys there are encrypted with it."""

    def __init__(self, directory: Path, passphrase: bytes | None = None) -> None:
        self.directory, self.passphrase = directory, passphrase
        self.root_key = directory / "root.key"
        self.root_next = directory / "root.next"
        self.bundle = directory / "bundle.pem"
        self.issuer = directory / "issuer.key"
        self.issuer_next = directory / "issuer.next"
        self.roots = directory / "roots.json"
        self.jwt_key = directory / "jwt.key"
        self.jwt_next = directory / "jwt.next"
        self.database = directory / "ca.db"
        self.name = directory / "ca.name"
        self.agent_token = directory / "agent.token"
        self.audit = directory / "audit.log"
        self.trust_domain = directory / "trust-domain"
        self.issuer_request = directory / "issuer.csr"
        self.issuer_chain = directory / "issuer.pem"
        self._incomplete = directory / "incomplete"

    def exist(self) -> bool:
        """Whether a CA was made here, as far as its files tell."""
        return not self._incomplete.exists() and any(file.exists() for file in self._kept())

    def check(self) -> None:
        """Problem when there is no CA here."""
        try:
            entries = {entry.name for entry in os.scandir(self.directory)}
            mode = stat.S_IMODE(self.directory.stat().st_mode)
        except OSError as error:
            raise Problem(
                f"{self.directory}: the CA's state directory cannot be read by uid {os.geteuid()}: {error.strerror}: "
                "make the CA with `meshd ca init`, or give its directory with --state-dir"
            ) from error
        if mode & 0o022:
            raise Problem(
                f"{self.directory}: its mode {mode:04o} lets others than its owner write: "
                f"see what they may have put there, then `chmod 700 {self.directory}`"
            )
        if self._incomplete.name in entries:
            raise Problem(f"{self.directory}: making the CA here was interrupted: run `meshd ca init` again")
        if self.bundle.name not in entries:
            raise Problem(
                f"{self.directory}: holds no CA ({self.bundle.name} is missing): make one with `meshd ca init`, or "
                "restore the file from a copy"
            )

    @contextmanager
    def making(self) -> Iterator[None]:
        """Around making a CA: afterwards all of it is there. Problem when there is one, or it cannot be written."""
        with _problems(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._clear()
                self.directory.chmod(0o700)
                os.fsync(lock)  # the mark is on disk before anything that it marks
                yield
                if os.geteuid() == 0:
                    self._give_to_owner()
                self._incomplete.unlink()
                os.fsync(lock)
            finally:
                os.close(lock)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around a change of keys and roots: one process at a time. Problem when the directory cannot be read."""
        with _problems(self.directory):
            lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def state(self) -> tuple[tuple[int, int], ...]:
        """What differs when the issuer or the roots were replaced, or one of the files is not there."""
        return tuple(map(_state, (self.issuer, self.bundle)))

    def _give_to_owner(self) -> None:
        """What root makes in the directory of a daemon that is another user is that user's to read."""
        owner = self.directory.stat()
        for file in self.directory.iterdir():
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _clear(self) -> None:
        """Mark the directory, and remove what an interrupted making left: there was nothing in it when that began."""
        if self.exist():
            raise Problem(
                f"{self.directory}: there is a CA already, and a CA is never overwritten: choose another directory"
            )
        found = set(self.directory.iterdir())
        if found and self._incomplete not in found:
            raise Problem(
                f"{self.directory}: is not empty ({min(found).name}): a CA is made in a directory of its own: choose "
                "another"
            )
        self._incomplete.touch(mode=0o600)
        for file in found - {self._incomplete}:
            file.unlink()

    def _kept(self) -> list[Path]:
        """What only a CA that was made has, and what must not be lost."""
        return [self.root_key, self.bundle, self.issuer, self.database, self.name]


def _state(file: Path) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def write(file: Path, data: bytes, mode: int = 0o600, owner_of: Path | None = None) -> None:
    """Put data in file, whole, surviving a loss of power once this returns. Problem when it cannot be written. With
    `owner_of`, what root writes belongs to whom that belongs to."""
    with _problems(file), NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as made:
        try:
            os.fchmod(made.fileno(), mode)
            if owner_of is not None and os.geteuid() == 0:
                owner = owner_of.stat()
                os.fchown(made.fileno(), owner.st_uid, owner.st_gid)
            made.write(data)
            made.flush()
            os.fsync(made.fileno())
            Path(made.name).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(made.name).unlink()
            raise
        _sync_directory(file.parent)


def read(file: Path) -> bytes:
    """The content of a file of the CA; Problem when it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise Problem(
            f"{file}: cannot be read by uid {os.geteuid()}: {error.strerror}: restore it, or correct its owner"
        ) from error


def read_secret(file: Path, what: str = "a private key") -> bytes:
    """`read`, refusing a file that others than its owner could have read; `what` it holds is for the message. Root may
    read what belongs to whom the directory belongs to: the daemon's key, for which it runs a command."""
    with suppress(OSError):
        found = file.stat()
        mode = stat.S_IMODE(found.st_mode)
        whose = {os.geteuid()} | ({file.parent.stat().st_uid} if os.geteuid() == 0 else set())
        if found.st_uid not in whose:
            raise Problem(
                f"{file}: belongs to uid {found.st_uid}, and this is uid {os.geteuid()}: run as that user, or correct "
                "the owner"
            )
        if mode & 0o077:
            raise Problem(
                f"{file}: holds {what}, and its mode {mode:04o} lets others than its owner at it: "
                f"see who may have read it, then `chmod 600 {file}`"
            )
    return read(file)


@contextmanager
def _problems(what: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise Problem(f"{what}: another process is making a CA there") from error
    except OSError as error:
        raise Problem(
            f"{what}: cannot be written by uid {os.geteuid()}: {error.strerror}: "
            + remedy(error, "correct its owner or mode, or choose another with --state-dir")
        ) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
