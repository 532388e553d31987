"""Identity for processes of this host that have no proxy: the SPIFFE Workload API, and how the agent knows who asks.

    process.py      who is at the other end, as the kernel says
    attest.py       which workload that is, by the selectors of the documents
    svids.py        keys and certificates, renewed
    jwts.py         tokens, and whether those of others are good
    service.py      what is answered
    grpc.py         how: gRPC on a Unix socket
    server.py       the socket, and the bounds on those who connect

The standard is SPIFFE's: "The SPIFFE Workload Endpoint" and "The SPIFFE Workload API".
"""
