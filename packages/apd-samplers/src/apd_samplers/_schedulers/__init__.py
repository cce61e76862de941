"""Inference schedulers choose the next noise map. One a file."""

from ._follow_path import FollowPath as FollowPath
from ._scheduler import InferenceScheduler as InferenceScheduler
