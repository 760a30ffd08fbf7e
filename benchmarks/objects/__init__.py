"""What each part of an object costs the control plane: see the README beside this package."""
