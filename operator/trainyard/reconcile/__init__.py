"""The controller: a work queue, one reconcile per kind, and the scheduler's tick."""
