"""The keys of a shared store (`meshd.ca.keyed`) in a cluster's own API: custom resources, in the CA's own namespace.

    api       the API server, as far as it is needed
    client    transactions on several objects, which the API does not have
    placing   which key is in which object
    records   objects

    journal                 what all transactions go through, and what is small: the number of what is believed, the
                            number of lines in each audit log, the last change of issuer or root, who does what one
                            alone may do
    trust-NAME              the deny list, the keys of JWT-SVIDs, the roots
    issued-NUMBER           the certificates of 16 transactions
    node-NAME, held-NAME    a host that joined with the entries for it, and what it said last of itself
    pattern-PATTERN         the entries for nodes that fit a pattern
    token-ID, shared-HASH   a join token, the token that agents share
    live-SESSION            a CA that runs
    request-CA, answer-CA   an issuer that a CA asks for, and is given

A kind of its own and no Secret or ConfigMap: the right to it is the right to nothing else, whereas one to make objects
of those kinds, or to list them, cannot be for some of them alone; with it the CA could read the installation's other
keys, and change its settings. There is no secret in the records: of tokens they have hashes.
"""
