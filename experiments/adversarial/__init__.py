"""Adversarial training with smooth comp-sum losses, and with the methods it is compared with."""
