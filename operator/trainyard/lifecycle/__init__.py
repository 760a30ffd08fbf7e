"""PURE rules over one job: from what is observed to the pods, conditions and status it should have.

As pure as `scheduling`; the two packages do not import each other.
"""
