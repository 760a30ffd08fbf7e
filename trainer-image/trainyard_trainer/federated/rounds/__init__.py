"""PURE: the state machine of rounds, its events and their history."""
