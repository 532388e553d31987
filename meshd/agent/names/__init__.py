"""The agent's name server: every service of the mesh has an address, so that any program that knows names can reach it.

    settings    `names` in the settings
    zones       which names are the mesh's, and what each means
    table       which address stands for which service, the same tomorrow
    existence   whether there is such a service, asked of discovery
    responder   a question's bytes in, an answer's out
    sockets     kept by systemd while the agent is restarted
    server      what comes by them, and bounds
    wiring      the host's resolver, made to ask here and put back

It forwards nothing: what is not the mesh's is refused, and asked of others by the host's resolver.
"""
