"""PURE: how updates are validated and averaged."""
