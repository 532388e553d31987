"""The soak: `make soak ARGS='--duration 30m'` (`python -m tests.soak`).

Real `meshd-proxy` processes with mutual TLS between them, three endpoints with an application each, and callers of
every kind that the mesh carries, for as long as one likes. Meanwhile applications and proxies are killed, ended and
started again at random, and configurations and certificates are reloaded. What must hold: every body arrives as it was
sent, no request fails but those that were on a connection that was killed and may not be asked again, and the proxies
that live through it all neither grow nor keep anything open.

    callers ──► web's proxy ══ mutual TLS ══╦══► proxy of `one`   ──► application
       upstreams, forward proxy             ╠══► proxy of `two`   ──► application
                                            ╚══► proxy of `three` ──► application

`world` has the processes, `http1`, `http2`, `calls` and `opaque` are the traffic, `chaos` does the damage, `verdict`
(pure) says what may fail and what may not. docs/testing.md has the rules in short, and what a long run found.
"""
