"""Solvers move tokens from one noise map to another. One a file."""

from ._ddim import DDIM as DDIM
from ._solver import Solver as Solver
