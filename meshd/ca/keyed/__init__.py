"""The store of several CA daemons at once: keys with values, wherever these are; see `meshd.ca.store` for what it does.

    operations    what has the keys is to do: several of them changed in one transaction (`meshd.ca.consul`,
                  `meshd.ca.objects`); of both, `answers` by HTTP
    layout        which record is under which key
    store         what the CA asks for, as transactions (`transactions`)
    presence      which CAs are alive, and which of them does what one alone may do: sessions

The keys:

    about                    {"format": 1, "trust_domain"}: what is here, and that it is ours
    trust/sequence           the number of what is believed and denied
    trust/denied             the deny list, compressed: MAX_DENIED records of it are bounded by MAX_VALUE_BYTES as well
    trust/jwt-keys           the public keys of JWT-SVIDs, of all CAs
    trust/rotation           the last change of issuer or root
    trust/roots              what all CAs hand out as the trust bundle, signed (`meshd.ca.roots`)
    issued/SERIAL            a certificate
    nodes/NAME/node          a host that joined
    nodes/NAME/entries       the entries for exactly that node
    nodes/NAME/held          what it said last of itself
    patterns/PATTERN/entries the entries for nodes that fit a pattern (percent-encoded)
    tokens/ID                a join token
    shared/HASH              the token that agents share
    audit/CA                 how many lines the audit log has, of the CA on each host
    live/CA/SESSION          a CA that runs: gone with its session
    locks/WHAT               who does what one alone may do: gone with its session
    issuers/CA/request       an issuer that a CA asks for, and
    issuers/CA/answer        what the one with the root's key has signed for it (`meshd.ca.sharing`)

A value is JSON. What belongs together is changed in one transaction, each key of it by check-and-set against what was
read; when another CA was faster all of it is looked at anew. So a token's use is counted once, whichever CA it came to,
and no certificate gets on record beside a denial. Certificates and tokens are forgotten a day after they expired
(SQLite keeps them for a month): Consul has all of it in memory, a cluster's etcd nearly so, and the audit logs have the
rest.
"""
