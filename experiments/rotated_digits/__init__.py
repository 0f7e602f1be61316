"""Digits turned by angles; each angle is left out of the training once."""
