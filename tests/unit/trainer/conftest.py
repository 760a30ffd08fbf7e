"""Small models are fastest in one thread, above all where cores are shared."""

import torch

torch.set_num_threads(1)
