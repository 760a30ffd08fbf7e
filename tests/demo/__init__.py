"""The demo: a cluster, Trainyard installed with Helm, and a job that grows because it pays."""
