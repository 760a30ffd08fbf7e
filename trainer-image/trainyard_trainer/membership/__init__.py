"""The membership protocol, which decides who steps together, as pure functions.

It does no I/O, so that a checker can explore the interleavings of workers, coordinator and faults
(`tests/unit/trainyard_trainer/membership/test_checker.py`). `decisions` is the coordinator's half,
`participant` the worker's, `messages` what they send each other.

A *view* is a numbered set of workers that step together. A *planned* view has a predecessor: its
members prepare it while the predecessor trains, and switch at a step boundary on which the
predecessor's members agree by vote. A view without a predecessor begins at once: the initial one,
and the *recovery* view after a failure, before which everybody stops and reports its progress. The
furthest member is then the source whose state the others adopt, so that an iteration which one
survivor had committed counts for all, and one which nobody had is computed again.
"""
