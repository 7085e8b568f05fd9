"""What the tests of matrices share."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def the_same_numbers_for_each_test(request):
    """Whichever tests of its module ran before it in this process."""
    if hasattr(request.module, "RNG"):
        request.module.RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
