"""Training samplers of noise levels, solvers, inference schedulers and guidance for asynchronous diffusion."""

from ._guidance import Guidance as Guidance, classifier_free as classifier_free
from ._noise_source import NoiseSource as NoiseSource, PerSampleNoise as PerSampleNoise
from ._sample import Progress as Progress, Sampled as Sampled, sample as sample, sample_steps as sample_steps
from ._schedulers import FollowPath as FollowPath, InferenceScheduler as InferenceScheduler
from ._solvers import (
    DDIM as DDIM,
    Adams as Adams,
    Churn as Churn,
    DPMSolverPP2M as DPMSolverPP2M,
    Euler as Euler,
    Heun as Heun,
    Solver as Solver,
)
from ._training import (
    Draw as Draw,
    LevelLaw as LevelLaw,
    LevelSampler as LevelSampler,
    TrainingLevelSampler as TrainingLevelSampler,
    Weighting as Weighting,
    async_patch as async_patch,
    clean_context as clean_context,
    eps_weighting as eps_weighting,
    flow_weighting as flow_weighting,
    independent as independent,
    logit_normal as logit_normal,
    loss as loss,
    mixture as mixture,
    shared as shared,
    snap as snap,
    uniform as uniform,
    v_weighting as v_weighting,
    wavefront as wavefront,
    weighted as weighted,
    x_weighting as x_weighting,
)
