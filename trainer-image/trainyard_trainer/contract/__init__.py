"""What the operator's image and the trainer's image agree on, in the standard library alone.

It is the one part of the trainer that the operator imports. A change that an older peer would
misread raises `env.WIRE_VERSION`.
"""
