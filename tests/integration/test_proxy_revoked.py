"""A revoked peer: cut off where it is connected, refused when it comes again or is called, and nobody else is."""

import asyncio

from cryptography import x509

from proxy.errors import Bound
from proxy.mesh.denied import Direction
from proxy.mesh.tls import Held
from tests.support.aio import run
from tests.support.certificates import identity
from tests.support.http import ask, origin
from tests.support.meshes import Node, mesh, running


def serial(held: Held | None) -> str:
    assert held is not None
    return f"{x509.load_pem_x509_certificate(held.certificate.chain_pem.encode()).serial_number:032x}"


def refused(node: Node, direction: Direction) -> int:
    return node.proxy.stats.errors.get((direction, "tcp", Bound.DENIED), 0)


def test_a_revoked_caller_is_cut_off_and_refused_from_then_on() -> None:
    async def main() -> None:
        async with origin() as app:
            world = mesh(app.port)
            async with running(world.api, world.web):
                assert (await ask(world.upstream)).status == 200
                world.api.denied = (serial(world.web.held),)
                await world.api.apply()
                assert refused(world.api, "inbound") == 1  # the connection that was open
                assert (await ask(world.upstream)).status >= 500
                assert refused(world.api, "inbound") > 1
                assert len(app.requests) == 1

                world.web.held = world.root.held(identity("web"))  # another certificate of the same workload is good
                await world.web.apply()
                await eventually_answered(world.upstream)
                world.api.denied = (identity("web"),)
                await world.api.apply()
                assert (await ask(world.upstream)).status >= 500

    run(main())


def test_a_revoked_server_is_not_called() -> None:
    async def main() -> None:
        async with origin() as app:
            world = mesh(app.port)
            async with running(world.api, world.web):
                assert (await ask(world.upstream)).status == 200
                world.web.denied = (serial(world.api.held),)
                await world.web.apply()
                assert refused(world.web, "outbound") == 1
                assert (await ask(world.upstream)).status >= 500
                assert refused(world.web, "outbound") > 1
                assert len(app.requests) == 1
                world.web.denied = ()
                await world.web.apply()
                await eventually_answered(world.upstream)

    run(main())


async def eventually_answered(port: int) -> None:
    """Returns when there is an answer of the application: the endpoint is out for some moments after a refusal."""
    async with asyncio.timeout(60.0):
        while (await ask(port)).status != 200:
            await asyncio.sleep(0.05)
