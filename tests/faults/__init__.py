"""Random faults: operators, connections and nodes fail while jobs run, then the state is checked.

`python -m tests.faults --seed 7 --seconds 1800` runs it for any time;
`tests/integration/test_faults.py` runs a few minutes of it. The parts have Jepsen's names: a
`workload` changes jobs, a `fault_injector` injects faults, a `history` records both, a `monitor`
checks invariants throughout and a `checker` the final state.
"""
