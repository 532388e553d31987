"""The `dns` back end: services that are names in the DNS, as A, AAAA and SRV records.

    settings    what operators say of it
    names       which names it answers for, and what is asked for them
    registry    what the answers make of a service
    resolver    names looked up: which servers are asked, aliases, TTLs
    exchange    one question to one server, and the bytes of its answer

dnspython reads and writes the messages; the sockets are ours, so that they are connected ones (see `exchange`).
"""
