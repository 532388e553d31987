"""The mesh in a Kubernetes cluster: the controller, the sidecar injector and the manifests that install them."""
