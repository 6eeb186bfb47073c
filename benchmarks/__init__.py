"""Figures for speed and scale, each beside an alternative in the same run."""
