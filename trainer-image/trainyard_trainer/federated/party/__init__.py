"""A party: its process, its client of the aggregator, and training on its own data."""
