"""Nothing phones home: imported first by every package that imports Flower or Ray."""

import os

os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    UV_OFFLINE="1",
    RAY_USAGE_STATS_ENABLED="0",
)
