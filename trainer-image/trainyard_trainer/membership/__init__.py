"""Who steps together: the membership protocol as pure functions.

It does no I/O, so that a checker can explore the interleavings of workers, coordinator and faults
(`tests/unit/trainyard_trainer/membership/test_checker.py`). `decisions` is the coordinator's half,
`participant` the worker's.

The protocol in short. A *view* is a numbered set of workers that step together. A *planned* view
has a predecessor: its members prepare it while the predecessor trains, and switch at a step
boundary on which the predecessor's members agree among themselves. A view without a predecessor is
begun at once: the first one, and the one after a break, before which everybody stops and reports
how far it came. The furthest is then the source whose state the others adopt, so that a step which
one survivor had committed counts for all, and one which nobody had is done again.
"""
