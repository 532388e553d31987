"""Whether this host's workloads can serve, by the checks that their documents name.

    probes, grpc    one look at a workload: nothing, or what is wrong
    judge           how many looks in a row are believed
    monitor         a task a check, and what the registry is told

A workload whose check fails is not announced: callers are sent to others. Its proxy goes on as it is, so that those who
are connected are not cut off by an opinion.
"""
