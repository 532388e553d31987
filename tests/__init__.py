"""The tests, in rings: `unit` (pure objects), `integration` (a mesh on loopback, real programs), `e2e` (a host).

What they share is in `tests.support`.
"""
