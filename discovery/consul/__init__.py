"""The `consul` back end: services of HashiCorp Consul followed by blocking queries, this host's own registered there.

settings     what an operator says of it
names        the spellings by which callers ask, and the keys they become
answers      Consul's JSON, parsed strictly
places       what Consul says of a service, as endpoints
client       calls to an agent, through py-consul
registry     following and looking up, for `discovery.following`
documents    the mesh's documents in the KV store
publisher    this host's workloads, kept registered with the local agent
"""
