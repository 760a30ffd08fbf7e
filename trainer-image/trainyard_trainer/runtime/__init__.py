"""What every process of a job needs: exits, child processes, metrics, checkpoints (no torch)."""
