"""What Prometheus and supervisors ask the agent and the CA for: `/metrics`, `/ready` and `/live`, on a port of its own.

    server     the listener, and the bounds on those who connect
    page       the page of metrics: families that are read off what is known, when they are asked for
    ca         what the CA's page has; the agent's is `meshd.agent.metrics`

Nothing here counts, and nothing runs while nobody asks. Imported by processes alone that have such a port: the library
that writes the page takes some megabytes. The proxy writes its page by itself (`proxy.exposition`).
"""
