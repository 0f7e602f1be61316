"""Large steps for logistic regression on real separable problems."""
