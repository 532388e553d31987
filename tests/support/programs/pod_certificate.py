"""pod_certificate.py URL: what a pod does to have a certificate; prints the chain. Its token is where pods have it, and
the trust anchors are in the environment."""

import asyncio
import os
import sys
from pathlib import Path

from meshd.api.names import Identity
from meshd.ca.client import CaClient
from tests.support.csr import csr


async def main(url: str, token: str) -> None:
    client = CaClient(url, os.environ["MESHD_PROXY_TRUST_ANCHORS"], token)
    signed = await client.sign(csr(), Identity.parse(os.environ["IDENTITY"]))
    print(signed.chain_pem)


asyncio.run(main(sys.argv[1], Path("/var/run/secrets/meshd.io/token/token").read_text().strip()))
