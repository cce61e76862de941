"""Guidance: functions from denoiser to denoiser. One a file."""

from ._autoguidance import autoguidance as autoguidance
from ._branch import Branch as Branch
from ._classifier_free import classifier_free as classifier_free
from ._compose import compose_guidance as compose_guidance
from ._composite import composite as composite
from ._guided import Guidance as Guidance
from ._input_guidance import input_guidance as input_guidance
from ._modulated import GuidanceScale as GuidanceScale, modulated as modulated
from ._on_interval import on_interval as on_interval
from ._renoised_region import RenoisedRegion as RenoisedRegion
