"""The workload's entry in the agent: made, changed, withdrawn, and made again when the agent was away.

The agent keeps an entry for as long as the connection that made it. When it is lost the workload goes on with what its
proxy last knew; here the agent is looked for until it is back (`Agent.present` starts the user's own anew).
"""

import asyncio
import logging
from typing import Any

import msgspec

from meshd.api.backoff import Backoff
from meshd.api.control import Done, Registered, RegisterWorkload, WithdrawWorkload
from meshd.api.names import WorkloadName
from meshd.api.problems import Problem
from meshd.api.tasks import Tasks
from meshd.client.connection import AgentAway, AgentRefused, ControlConnection
from meshd.run.agents import Agent

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0
WITHDRAWN_WITHIN_S = 2.0


class Registration:
    """Lives from `start` to `close`."""

    def __init__(self, agent: Agent, workload: RegisterWorkload) -> None:
        self._agent = agent
        self._workload = workload
        self._connection: ControlConnection | None = None
        self._tasks = Tasks("registration")

    async def start(self) -> str:
        """Register for the first time; the SPIFFE ID that the workload has. Problem when the agent does not do it."""
        try:
            try:
                identity = await self._register()
            except AgentAway:
                # The user's own agent ends some time after its last workload: it may have been about to.
                identity = await self._register()
        except AgentRefused as refused:
            name = WorkloadName(self._workload.namespace, self._workload.name)
            raise Problem(f"the agent at {self._agent.socket} does not take {name}: {refused}") from refused
        self._tasks.start(self._keep(), "keep")
        return identity

    async def change(self, **fields: Any) -> None:
        """Register anew with these fields changed; at once, or when the agent is back."""
        self._workload = msgspec.structs.replace(self._workload, **fields)
        connection = self._connection
        if connection is not None:
            try:
                await connection.call(self._workload, Registered)
            except AgentAway:
                await connection.close()  # it may hang: it is told anew when it can be reached again
            except AgentRefused as refused:
                log.warning("the agent does not take the workload's change: %s", refused)

    async def withdraw(self) -> None:
        """No more callers are to come. It is not an error when the agent is away: then none are sent by it."""
        await self._tasks.cancel()
        if self._connection is not None:
            try:
                await self._connection.call(WithdrawWorkload(), Done, WITHDRAWN_WITHIN_S)
            except Problem as problem:
                log.warning("could not be withdrawn: %s", problem)

    async def close(self) -> None:
        """End the entry."""
        await self._tasks.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _register(self) -> str:
        await self._agent.present()
        connection = await ControlConnection.connect(self._agent.socket)
        try:
            workload = None
            while workload is not self._workload:  # it may change while the agent answers
                workload = self._workload
                registered = await connection.call(workload, Registered)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return registered.identity

    async def _keep(self) -> None:
        while True:
            assert self._connection is not None, "registered before it is kept"
            await asyncio.shield(self._connection.lost)
            self._connection = None
            log.warning("the agent at %s is gone: traffic goes on with what is known", self._agent.socket)
            await self._return()
            log.warning("registered with the agent again")

    async def _return(self) -> None:
        """Register until it is done, each new reason why it is not said once."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MOST_S)
        said = ""
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                await self._register()
            except Problem as problem:
                if str(problem) != said:
                    said = str(problem)
                    log.warning("not registered again yet: %s", said)
            else:
                return
