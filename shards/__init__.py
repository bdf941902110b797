"""From slides to batches: tiling, the cohort on disk, the sampling plan and the patch reader."""
