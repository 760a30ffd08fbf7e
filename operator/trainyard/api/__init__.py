"""The nouns: resources, names, conditions and the cluster, as frozen values without behaviour."""
