"""Settings that keep these tests fast and steady on machines whose cores are shared."""

import torch

# Small models are fastest in one thread.
torch.set_num_threads(1)
