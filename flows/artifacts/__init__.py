"""What the Prefect UI shows of a run beside its states."""

from flows.artifacts.live import Share
from flows.artifacts.report import few_tracks_pictured, show_ablation, show_report
from flows.artifacts.songs import Journey, show_dataset, show_list
from flows.artifacts.training import TrainingPage

__all__ = [
    "Journey",
    "Share",
    "TrainingPage",
    "few_tracks_pictured",
    "show_ablation",
    "show_dataset",
    "show_list",
    "show_report",
]
