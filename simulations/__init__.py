"""Many hospitals on one machine."""

import fedmodels.quiet  # noqa: F401 - before anything imports Flower
