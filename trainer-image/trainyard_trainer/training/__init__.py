"""One training: the loop, its replica of model and optimizer, gradients, cursor and snapshot."""
