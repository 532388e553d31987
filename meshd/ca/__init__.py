"""The certificate authority: who is who in a trust domain, as X.509.

    attest        who asks: by token, by certificate, by a cluster (kubernetes); requester is what they may have for it
    source        the seam: what can sign for the agent; local and client are its two implementations
    authority     signs, by the rules in rules, and stores what it signed before it lets go of it
    certificates  the four kinds of certificate, field by field
    material      the CA's own keys and certificates, in files; external those of an issuer below another's root
    store         the seam to where it keeps the rest: records are what is kept, sqlite is an implementation
    api, server   the same over HTTPS; wire holds its messages, limits what a peer can make it hold
    client        its counterpart; calls, failover and first_contact are what it is made of
    rotation      one issuer, and one root, after another: which stage follows which
    registrar     what an operator changes; audit is the log of that and of all that was asked for

The counterpart is the agent (`meshd.agent.certificates`). Proxies never talk to the CA.
"""
