"""`meshd-init`: has the kernel lead a pod's connections to the pod's proxy. It runs before anything else in the pod,
with CAP_NET_ADMIN, in the pod's network namespace, and ends.

    plan.py        what is led where
    nftables.py    a plan as one table of nftables: `nft -f`, one transaction
    iptables.py    the same for iptables-restore, where there is no nftables
    programming.py which of them it is, and how it went
    checking.py    whether it is so: a connection is made, and is to arrive here
    main.py        the command line

Its counterpart on hosts is `meshd.capture`, which captures by process; in a pod all are captured but the proxy, by its
user. It imports little: it runs in every pod that starts.
"""
