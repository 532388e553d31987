"""HTTP/1.1 (RFC 9112): strict codecs that know no socket, and the two connections that drive them.

`heads` and `bodies` turn bytes into values and back; `server` is a connection from a caller, `client` one to an
endpoint. What happens between the two is `proxy.exchange`'s business.
"""
