"""The standalone certificate authority: issues SPIFFE identities (X.509) to the hosts and workloads of a mesh."""
