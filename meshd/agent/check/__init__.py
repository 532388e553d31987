"""What `meshd check` looks at, a module for each ground of what may be wrong; `whole` puts them together.

    kinds      every check there is: its section, its id, which stays the same, and what is the case when all is well
    mesh       configuration, the agent, discovery, identity, the CA
    host       what the system under it is, now and before anything is installed
    ports      who listens where meshd is to
    capture    what leads connections to the proxy, and the units that are meshed
    proxy      the host's proxy, and whether each workload is reached by mutual TLS

Nothing is changed by looking, and nothing is signed. How it is shown is `meshd.view.check`'s affair.
"""
