"""A worker as its master has it: the process, the link to it, and what it last said."""

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any, Final, Protocol

from meshd.api.problems import Problem
from proxy.workers.link import (
    LISTEN,
    MAX_DATAGRAM_BYTES,
    RELEASE,
    VARIABLE,
    Ask,
    AskEndpoints,
    Drain,
    End,
    Endpoints,
    Ends,
    FromMaster,
    FromWorker,
    Link,
    Page,
    Reload,
    Told,
)

STARTING: Final = "its start"
"""What a worker waits for that has not said anything yet."""


class Employer(Protocol):
    """What a worker's master does for it, and hears of it."""

    def listen(self, number: int, address: str) -> socket.socket: ...

    def release(self, number: int, address: str) -> None: ...

    def said(self, hired: "Hired", before: Told) -> None:
        """It has told how it is; `before` is what it had told until then."""

    def ended(self, hired: "Hired") -> None:
        """It has ended, and all that it said has been heard."""


class Hired:
    """See the module. `page` is the last that it gave; `status` its exit status once it has ended."""

    def __init__(self, number: int, process: "subprocess.Popen[bytes]", employer: Employer) -> None:
        self.number = number
        self.pid = process.pid
        self.status: int | None = None
        self.told = Told((STARTING,), ())
        self.heard = False
        self.page = ""
        self._process = process
        self._employer = employer
        self._left = False
        self._asked: asyncio.Future[bool] | None = None
        self._questions: dict[int, asyncio.Future[bytes]] = {}
        self._last_question = 0
        self._link = Link(FromWorker, self._said, self._lost)
        self._requests: socket.socket
        self._pidfd: int

    @classmethod
    async def start(cls, number: int, workers: int, employer: Employer) -> "Hired":
        """A worker, of so many, in a new process: this very program, told its place in the environment. Problem."""
        link, its_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        requests, its_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = Ends(number, workers, its_link.fileno(), its_requests.fileno())
        try:
            process = _execute(ends)
        except OSError as error:
            link.close()
            requests.close()
            raise Problem(f"{sys.executable} cannot be executed: {error.strerror}") from error
        finally:
            its_link.close()
            its_requests.close()
        hired = cls(number, process, employer)
        await hired._follow(link, requests)
        return hired

    async def _follow(self, link: socket.socket, requests: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._requests = requests
        requests.setblocking(False)
        link.setblocking(False)
        await loop.create_unix_connection(lambda: self._link, sock=link)
        loop.add_reader(requests.fileno(), self._requested)
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._exited)  # last: that it has ended is heard after this has returned

    # --- what it is told

    def reload(self) -> None:
        self._link.send(FromMaster(Reload()))

    def drain(self) -> None:
        self._link.send(FromMaster(Drain()))

    def end(self) -> None:
        self._link.send(FromMaster(End()))

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def ask(self) -> "asyncio.Future[bool]":
        """Ask for a page: done with whether it is there, when that is known."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            if self._left:
                self._asked.set_result(False)
            else:
                self._link.send(FromMaster(Ask()))
        return self._asked

    async def ask_endpoints(self, service: str, within_s: float) -> bytes:
        """What it measured of a service; empty when it does not say in time."""
        if self._left:
            return b""
        self._last_question += 1
        number = self._last_question
        question: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions[number] = question
        self._link.send(FromMaster(AskEndpoints(number, service)))
        try:
            async with asyncio.timeout(within_s):
                return await question
        except TimeoutError:
            return b""
        finally:
            del self._questions[number]

    # --- what it says

    def _said(self, message: FromWorker) -> None:
        if isinstance(message.body, Page):
            self.page = message.body.text or self.page
            self._answered(bool(message.body.text))
        elif isinstance(message.body, Endpoints):
            question = self._questions.get(message.body.number)
            if question is not None and not question.done():
                question.set_result(message.body.text.encode())
        else:
            before, self.told = self.told, message.body
            self.heard = True
            self._employer.said(self, before)

    def _answered(self, well: bool) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(well)

    def _requested(self) -> None:
        """It asks for a socket, or gives one back."""
        try:
            request = self._requests.recv(MAX_DATAGRAM_BYTES)
        except OSError:
            request = b""
        if request.startswith(LISTEN):
            self._give(request.removeprefix(LISTEN).decode(errors="replace"))
        elif request.startswith(RELEASE):
            self._employer.release(self.number, request.removeprefix(RELEASE).decode(errors="replace"))
        else:
            asyncio.get_running_loop().remove_reader(self._requests.fileno())

    def _give(self, address: str) -> None:
        try:
            listener = self._employer.listen(self.number, address)
            socket.send_fds(self._requests, [f"{address}\n".encode()], [listener.fileno()])
        except Problem as problem:
            self._requests.send(f"{address}\n{problem}".encode()[:MAX_DATAGRAM_BYTES])

    # --- how it ends

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.status = self._process.wait()
        self._leave()

    def _lost(self) -> None:
        self._left = True
        self._answered(False)
        for question in self._questions.values():
            if not question.done():
                question.set_result(b"")
        self._leave()

    def _leave(self) -> None:
        """It has ended once the process has and the link is read to its end, in whichever order."""
        if self.status is not None and self._left:
            asyncio.get_running_loop().remove_reader(self._requests.fileno())
            self._requests.close()
            self._employer.ended(self)


def _execute(ends: Ends) -> "subprocess.Popen[bytes]":
    """This program again. In a process group of its own a worker does not hear the Ctrl-C that is for the master; what
    is for the service manager is the master's to say."""
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return subprocess.Popen(  # noqa: S603 - what this process is itself
        sys.orig_argv,
        executable=sys.executable,
        env={**environment, VARIABLE: ",".join(map(str, ends))},
        pass_fds=(ends.link, ends.sockets),
        process_group=0,
    )
