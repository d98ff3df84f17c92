"""The experiments that the papers leave open: one choice varied at a time, several seeds, one table.

`variants` says what is trained, `study` trains it, `statistics` compares, `table` and `plot` show.
"""

from samuel.ablation.study import Result, run_fit, run_study
from samuel.ablation.table import write_table
from samuel.ablation.variants import PlannedFit, Variant, planned_fits, variants

__all__ = [
    "PlannedFit",
    "Result",
    "Variant",
    "planned_fits",
    "run_fit",
    "run_study",
    "variants",
    "write_table",
]
