"""The contract between meshd's processes: names, documents, and the control API's messages.

The counterpart of every module here is another process, so nothing in this package opens a socket, reads a
clock or imports another part of meshd. `proxy` and `discovery` import this package and nothing else of ours.
"""
