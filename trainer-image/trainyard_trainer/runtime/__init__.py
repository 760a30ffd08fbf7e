"""What a job's processes need: exits, child processes, exposition, checkpoints (no torch)."""
