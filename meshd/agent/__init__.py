"""The host's agent: knows the workloads here, watches discovery, gets certificates, answers the control API."""
