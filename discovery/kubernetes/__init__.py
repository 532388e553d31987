"""A cluster's Services, through its API server: EndpointSlices, Services and Pods, listed and watched.

settings    what an operator says
names       which names mean a Service of the cluster
objects     the objects, as far as they matter
access      the API server, reached as the `kubernetes` library reaches it
feed        one list that is kept up to date by a watch
pods        who the pods are: which of them are meshed, and as whom
assemble    all of it as the endpoints of a service; pure
registry    the back end
customs     custom resources of one kind, kept up to date
documents   the mesh's documents among them
"""
