"""A kubelet's node, played: pods as network namespaces on a bridge, their containers as processes, and their lives in
the order that Kubernetes has for them.

    node.py      the network: bridge, addresses, a way to the outside, host ports
    life.py      a pod's life: init containers, sidecars, hooks, probes, restarts, termination
    probes.py    what the kubelet asks of a container, from the node's side of the bridge
    mesh.py      meshed pods: manifests that the injector has made, on a node with
    played.py    a whole cluster: API server, and controllers.py, which have workloads.py, slices.py and asked.py
    control.py   a controller that says what a test wants said, or
    cluster.py   with a control plane: a double of the API server, a real CA, a real controller

What a container is as a process (argv, environment, user, capabilities, files) is `tests.support.pods`. What a manifest
asks for and is not played ends in an AssertionError.
"""
