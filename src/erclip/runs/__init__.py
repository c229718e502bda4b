"""What a run writes and how it is read back: its folder, metrics, series, trackers."""

from erclip.extras import stand_on

stand_on("train", "erclip.runs")
