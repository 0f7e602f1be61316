"""The papers' statements as executable checks.

One module per method family, named for it; a family of many statements is a package, one module a topic. A
module holds functions of arrays that return a ``Check`` each, functions that a theorist may want for
themselves (risks, minimisers, thresholds), and

    ``suite(seed: int) -> Iterator[Check]``

which evaluates every statement on random inputs, with oracles that are independent of the code under test:
free optimisation, linear programs, dense grids, bisection, decimal arithmetic, Monte Carlo. ``python -m
jaxreg.theory`` runs the suites and prints one row a statement; ``falsify.search`` looks for a counterexample
to any of them.
"""

from jaxreg.theory.check import Check

__all__ = ["Check"]
