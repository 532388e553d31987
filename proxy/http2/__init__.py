"""HTTP/2 (RFC 9113) and HPACK (RFC 7541): an engine that knows no socket, and the connections that drive it.

`fields` compresses and decompresses field blocks, `heads` turns them into the heads of `proxy.http1` and back,
`engine` is the protocol; `server` is a connection from a caller, `client` one to an endpoint. An exchange does not
tell their streams from the connections of `proxy.http1`.
"""
