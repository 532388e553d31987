"""Connections that the kernel sent here in place of where they were going (nftables' `redirect`), and who made them.

    original.py     where a connection was going
    diag.py         whose socket is at its other end: one exact question to the kernel
    callers.py      which workload that is: the agent's answer, remembered
    outbound.py     what processes of this host send, in the name of the workload that each is
    inbound.py      what comes for a workload's port in plain text, beside the mesh's own TLS

Who redirects what is the agent's to say (`meshd.api.control.Capture`). Where nothing is captured none of this is on any
connection's way.
"""
