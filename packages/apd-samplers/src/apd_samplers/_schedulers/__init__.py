"""Inference schedulers choose the next noise map. One a file."""

from ._dual_loop import DualLoop as DualLoop
from ._follow_path import FollowPath as FollowPath
from ._ordered import MostCertainFirst as MostCertainFirst
from ._restarts import Restarts as Restarts
from ._round_robin import RoundRobin as RoundRobin
from ._scheduler import InferenceScheduler as InferenceScheduler
from ._uncertainty import AtRandom as AtRandom, Changing as Changing, Predicted as Predicted, Uncertainty as Uncertainty
from ._uncertainty_guided import UncertaintyGuided as UncertaintyGuided
