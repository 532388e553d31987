"""meshd: a service mesh whose unit is a process.

The package holds everything but the data plane: the wire types (`api`), the host's agent (`agent`), the
certificate authority (`ca`) and the command line (`cli`). The proxy is the package `proxy`.
"""

__version__ = "0.1.0"
