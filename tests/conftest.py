import pytest
import torch
from hypothesis import settings

settings.register_profile("pal", deadline=None)  # the first example pays for what is loaded late
settings.load_profile("pal")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Tests that draw from torch's own generator draw the same whichever tests ran before."""
    torch.manual_seed(0)
