"""The host's agent: knows the workloads here, watches discovery, gets certificates, answers the control API.

agent, host, embedded, daemon              the whole, and its two kinds
core, registry, local, memory              what is known: workloads, proxies, the services that they make
server, connection, session, peer          who asks, what they may, what it does
traffic, golden, histogram, status         what proxies counted, as figures
certificates, clock, credentials           the CA, seen from here
settings, settings_file, settings_page     meshd.yaml
"""
