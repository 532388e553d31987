"""The certificate authority: who is who in a trust domain, as X.509.

    source        the seam: what can sign for the agent; local and client are its two implementations
    authority     signs, by the rules in rules.py, and stores what it signed before it lets go of it
    certificates  the four kinds of certificate, field by field
    files, store  what is kept: keys and certificates in files, what was issued in SQLite
    wire          the messages of the HTTPS API

The counterpart is the agent (`meshd.agent.certificates`). Proxies never talk to the CA.
"""
