"""What tests of the running operator are made with: its process, a cluster's objects, a kubelet."""
