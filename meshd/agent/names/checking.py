"""What `meshd check` looks at of names: whether the name server answers, and whether the host's resolver asks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode

from meshd.agent.checks import Check
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
    what = "meshd-names", f"the name server answers at {address}"
    try:
        answer = dns.query.udp(question, address.host, timeout=NAMES_WAIT_S, port=address.port)
    except (OSError, dns.exception.DNSException) as error:
        reason = str(error) or "it does not"
        yield Check(*what, "error", reason, "see that the agent runs, and `meshd status`: another may have the port")
    else:
        is_ours = answer.rcode() == dns.rcode.NOERROR and bool(answer.flags & dns.flags.AA)
        other = f"somebody else answers there, with {dns.rcode.to_text(answer.rcode())}"
        yield Check(*what) if is_ours else Check(*what, "error", other, "choose another `names.listen`")
    what = "meshd-names", "this host's resolver asks it for the mesh's names"
    try:
        done = wiring.installed(Path(settings.state_dir))
        if done is None:
            return
        wanted = wiring.wanted(root, settings.names, settings.domains, settings.names.ranges(settings.trust_domain))
        is_good = wiring.is_in_force(root, done) and done.content == wanted.content
    except Problem as problem:
        yield Check(*what, "warning", str(problem))
        return
    hint = "run `meshd names install` again"
    yield Check(*what) if is_good else Check(*what, "warning", f"/{done.file} is not as it is to be", hint)
