"""Digits whose colour predicts the label in training, and the opposite in the test domain."""
