"""Tests are of the CPU, also beside a GPU, unless they or whoever starts them choose a device."""

import os

os.environ.setdefault("FEDMODELS_DEVICE", "cpu")
