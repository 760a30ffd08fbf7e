"""Federations: parties train on data that never leaves them, an aggregator folds what they send.

`rounds`, `strategies`, `fold`, `buffers`, `wire`, `verification` and `messages` are pure; the
aggregator's rooms never import torch, nor the user's code.
"""
