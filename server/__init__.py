"""What runs at the coordinator."""

import fedmodels.quiet  # noqa: F401 - before anything imports Flower
