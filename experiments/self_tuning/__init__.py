"""Self-tuning networks against searches for hyper-parameters."""
