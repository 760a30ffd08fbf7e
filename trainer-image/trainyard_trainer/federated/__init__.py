"""Federated training: parties train on their own data, an aggregator averages their models.

`protocol`, `rounds` and `aggregation` are pure; `server` and `party` are the two sides. The server
never imports torch, nor the user's code.
"""
