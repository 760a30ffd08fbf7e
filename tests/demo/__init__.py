"""The demo: a cluster, Trainyard installed with Helm, and a job of each kind side by side."""
