"""From trials to gradients: `samples` with returns and advantages, packed in a `batch`, for the `trainer`."""
