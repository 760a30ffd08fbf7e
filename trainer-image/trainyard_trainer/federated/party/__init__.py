"""A party: its process, its client of the aggregator, and local training."""
