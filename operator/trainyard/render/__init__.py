"""PURE: from a job and what was decided to the manifests of its children."""
