"""Experiments on real data: one folder a paper over shared data, models, training, runs and reports.

``python -m experiments list`` names them; ``python -m experiments NAME --help`` documents every field of one.
The package imports :mod:`jaxreg` and is never imported by it.
"""
