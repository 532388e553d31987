"""The contract between meshd's processes: names, documents, and the control API's messages.

The counterpart of every module here is another process, so nothing in this package opens a socket or imports another
part of meshd. `proxy` and `discovery` import this package and nothing else of ours. Beside the contract it holds what
every daemon needs to be one: `tasks` and `complaints`.
"""
