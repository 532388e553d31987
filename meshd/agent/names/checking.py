"""What `meshd check` looks at of names: whether the name server answers, and whether the host's resolver asks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode

from meshd.agent.check import kinds, ports
from meshd.agent.check.kinds import Check
from meshd.agent.names import wiring
from meshd.agent.settings import Settings
from meshd.api.problems import Problem

NAMES_WAIT_S: Final = 3.0
"""For an answer of the name server."""

ROOT: Final = Path("/")


def checks(settings: Settings, root: Path = ROOT) -> Iterator[Check]:
    """The name server, and whether the host's resolver asks it where that was set up."""
    address = settings.names.address
    if address is None:
        return
    question = dns.message.make_query(settings.domains[0], "SOA")
    try:
        answer = dns.query.udp(question, address.host, timeout=NAMES_WAIT_S, port=address.port)
    except (OSError, dns.exception.DNSException) as error:
        hint = "see that the agent runs; `meshd status` says why it does not answer, as when another has the port"
        yield kinds.NAMES_ANSWER.error(str(error) or "it does not", hint, address)
    else:
        is_ours = answer.rcode() == dns.rcode.NOERROR and bool(answer.flags & dns.flags.AA)
        who = ports.said(ports.holders(address, "udp"))
        other = f"{who} answers there, with {dns.rcode.to_text(answer.rcode())}"
        hint = "end it, or choose another `names.listen`, and restart the agent"
        yield kinds.NAMES_ANSWER.well(address) if is_ours else kinds.NAMES_ANSWER.error(other, hint, address)
    try:
        done = wiring.installed(Path(settings.state_dir))
        if done is None:
            return
        wanted = wiring.wanted(root, settings.names, settings.domains, settings.names.ranges(settings.trust_domain))
        is_good = wiring.is_in_force(root, done) and done.content == wanted.content
    except Problem as problem:
        hint = "programs do not find the mesh's names: do as it says, and run `meshd names install` again"
        yield kinds.NAMES_ASKED.warning(str(problem), hint)
        return
    hint = "run `meshd names install` again"
    message = f"/{done.file} is not as it is to be"
    yield kinds.NAMES_ASKED.well() if is_good else kinds.NAMES_ASKED.warning(message, hint)
