"""What runs at a hospital."""

import fedmodels.quiet  # noqa: F401 - before anything imports Flower
