"""Operators, connections and nodes fail at random while jobs come and go; then all must be right.

`python -m tests.faults --seed 7 --seconds 1800` runs it for as long as one likes;
`tests/integration/test_faults.py` runs a few minutes of it.
"""
