"""The keys of a shared store (`meshd.ca.keyed`) in Consul's KV store, below one prefix (`store.consul.prefix` of the
settings): its API, as far as it is needed. Several keys are read, or changed, in one transaction of Consul's."""
