"""`meshd controller`: the control API for the sidecars of a cluster.

    controller     all of it, started and stopped whole
    core           what is known and can be done: configurations, certificates, who is connected
    server         the listener: TLS, who connects, and how many may
    session        one connection's calls, and what they may do
    peer           who is at the other end
    reviews        whose a token is, by the API server
    pods           what a pod's object says of its sidecar
    authority      the CA: the controller's own certificate, and those that it hands on requests for
    destinations   where services are, followed once and said in the same bytes to all who ask
    sidecars       who is connected, and what they counted
    operators      the Unix socket for `meshd status` and the like
    metrics        the page of the admin port

Controllers share nothing, and keep nothing that could not be had anew: any of them serves any sidecar, and a sidecar
that loses one goes to another. The counterpart is `proxy.controller`.
"""
