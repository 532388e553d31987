"""The connection between two proxies: mutual TLS 1.3 under ALPN `meshd/1`, opened by a transport header.

`header` is its first frame, `records` the framing of opaque bytes after it, `tls` the contexts and the check of who
the peer is, `identity` how a workload comes by its certificate, and `keys` the short-lived child that makes its key.
"""
