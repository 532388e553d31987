"""Where services are: one abstraction, a back end a file.

A back end turns a registry into immutable endpoint sets (`meshd.api.endpoints`); the agent is its counterpart and
the only one to hold it.
"""
