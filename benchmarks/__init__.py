"""Side-by-side timings that print ratios: ``python -m benchmarks.losses``."""
