"""All I/O with the cluster: the Kubernetes API, informers of it, and the coordinators."""
