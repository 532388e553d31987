"""The data plane: every byte of user traffic passes through this package.

Its only counterpart inside the mesh is the control API (`meshd.api`); it knows no registry, no cluster and no
certificate authority, so the same program is a systemd unit, the child of `meshd run`, or a sidecar.
"""
