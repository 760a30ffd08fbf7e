"""What the operator's image and the trainer's image agree on.

It is the only part of the trainer that the operator imports, so it needs nothing but msgspec, which
both images have, and the standard library.
"""
