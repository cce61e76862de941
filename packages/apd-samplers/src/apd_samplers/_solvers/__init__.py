"""Solvers move tokens from one noise map to another. One a file."""

from ._adams import Adams as Adams
from ._churn import Churn as Churn
from ._ddim import DDIM as DDIM
from ._dpm_solver import DPMSolverPP2M as DPMSolverPP2M
from ._euler import Euler as Euler
from ._heun import Heun as Heun
from ._overwrite import Overwrite as Overwrite
from ._renoise import Renoise as Renoise, renoise as renoise
from ._solver import Solver as Solver, of_chain as of_chain
