"""All I/O with the cluster: the Kubernetes API, the mirror of it, and the coordinators."""
