"""Policies worth training: fitted to scripted teachers (`teach_..`), measured at `gates` before saving."""
