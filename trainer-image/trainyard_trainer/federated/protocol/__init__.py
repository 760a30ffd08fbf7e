"""PURE: the messages and the byte format between a party and the aggregator."""
