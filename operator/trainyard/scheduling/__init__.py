"""PURE rules over all jobs: which are admitted, how many GPUs each gets, and why.

No clock, no randomness, no I/O and no logging: rules take everything as arguments, `now` included,
and return values. A decision carries a reason for programs and the facts behind it; `explain` makes
sentences for people from the facts, and nothing else does.
"""
