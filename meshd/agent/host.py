"""The host's agent: everything from `meshd.yaml`, certificates from the mesh's CA."""

import asyncio
import logging
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from discovery.file import FileSource
from meshd.agent.agent import Agent
from meshd.agent.certificates import Signer
from meshd.agent.daemon import serve
from meshd.agent.lock import StateLock
from meshd.agent.peer import Access
from meshd.agent.settings import Settings
from meshd.agent.settings_file import load_settings, read_bundle, read_token
from meshd.api.loading import ConfigurationError
from meshd.ca.client import CaClient

log = logging.getLogger(__name__)


def sources(file: Path, settings: Settings) -> list[FileSource]:
    """The document sources, in the order in which they are believed: the settings file first, for it is at hand."""
    beside = FileSource(file, settings.trust_domain, beside_settings=True)
    return [beside, *(FileSource(Path(each.file.path), settings.trust_domain) for each in settings.discovery)]


class Checked(NamedTuple):
    """Settings that are good, and how many good documents there are beside them."""

    settings: Settings
    documents: int


def check(file: Path) -> Checked:
    """What is configured; ConfigurationError with all that is wrong, in whatever file."""
    settings = load_settings(file)
    findings = []
    for read in (read_bundle, read_token):
        try:
            read(settings, str(file))
        except ConfigurationError as error:
            findings += error.findings
    documents = sources(file, settings)
    for source in documents:
        source.load()
        findings += source.findings
    if findings:
        raise ConfigurationError(findings)
    return Checked(settings, sum(len(source.documents) for source in documents))


async def run_host(file: Path) -> None:
    """Run until SIGTERM. Problem or ConfigurationError when it cannot start."""
    settings = load_settings(file)
    bundle, token = read_bundle(settings, str(file)), read_token(settings, str(file))
    lock = StateLock(Path(settings.state_dir))
    try:
        agent = Agent(
            node=settings.node_name,
            trust_domain=settings.trust_domain,
            mode="host",
            socket=Path(settings.socket),
            access=Access.of(settings.control.users, str(file))[0],
            signer=Signer(CaClient(settings.ca.url, bundle, token), bundle, settings.ca.url),
            files=sources(file, settings),
            proxy=settings.proxy,
        )
        await serve(agent, _Reload(file, settings, agent).__call__, asyncio.Event())
    finally:
        lock.release()


class _Reload:
    """SIGHUP: the settings again, and every document."""

    def __init__(self, file: Path, settings: Settings, agent: Agent) -> None:
        self._file, self._settings, self._agent = file, settings, agent

    def __call__(self) -> None:
        notices = []
        try:
            new = load_settings(self._file)
            if replace(new, proxy=self._settings.proxy, control=self._settings.control) != self._settings:
                notices.append(f"{self._file}: changed, and in part in force only after a restart of the agent")
            self._settings = replace(self._settings, proxy=new.proxy, control=new.control)
        except ConfigurationError as error:
            notices += [f"{finding} (the settings before stay in force)" for finding in error.findings]
        for notice in notices:
            log.error("%s", notice)
        settings = self._settings
        self._agent.reload(Access.of(settings.control.users, str(self._file))[0], settings.proxy, notices)
        log.info("SIGHUP: settings and documents read again")
