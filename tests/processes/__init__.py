"""Tests of the trainer in real processes."""
