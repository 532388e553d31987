"""`meshd run`: the process-level sidecar.

One process supervises two, the workload's command and its proxy, and keeps the workload registered with an agent:

    listeners      the proxy's listening sockets, which outlive it
    child          a process that was started here, and how it ended
    proxy          the proxy: started, watched, started again, drained
    agents         the host's agent, or the user's own, started when it is not there
    registration   the workload's entry in the agent, renewed when the agent restarts
    environment    what the command finds in its environment
    signals        which signals the command is to get
    sidecar        all of them in order, from the first socket to the exit status
"""
