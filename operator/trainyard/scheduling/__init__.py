"""PURE rules over all jobs: what is admitted, who gets which GPUs, and why.

No clock, no randomness, no I/O and no logging: all that a rule needs comes as an argument, `now`
included, and what it decides goes out as a value with a reason in it.
"""
