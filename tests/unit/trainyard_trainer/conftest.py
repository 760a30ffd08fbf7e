"""Settings that keep these tests fast and steady on machines whose cores are shared."""

import torch
from hypothesis import settings

# Small models are fastest in one thread.
torch.set_num_threads(1)

# A slow example says that the machine is busy, not that the code is wrong.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
