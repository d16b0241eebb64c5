"""Where each frame's time goes: every stage and every denoise step, beside the least that the hardware needs."""

from edgetalker.calibration.profile.floor import StageCost, stage_cost
from edgetalker.calibration.profile.measure import Profiler
from edgetalker.calibration.profile.report import ProfileReport

__all__ = ["ProfileReport", "Profiler", "StageCost", "stage_cost"]
