"""The webhooks that the API server calls: for each pod that is made, and for each document of the mesh.

    injector       both of them, started and closed whole
    reviews        an AdmissionReview in, its answer out: pure
    server         the listener: TLS, bounds, and what was answered how often
    namespaces     the annotations of namespaces, kept up to date
    certificates   the webhook's own authority, which the API server is to believe: pure
    keeping        that authority in its Secret, and its certificate in the webhook configurations

All replicas share one authority, and each has certificates of its own from it. The counterpart is the API server
(`admissionregistration.k8s.io`, `admission.k8s.io/v1`); what becomes of a pod is `k8s.injector`'s to say.
"""
