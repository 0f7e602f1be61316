"""Self-tuning ridge regression, where the best response is known exactly."""
