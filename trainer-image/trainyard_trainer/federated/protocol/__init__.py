"""PURE: what travels between a party and the aggregator, byte for byte."""
