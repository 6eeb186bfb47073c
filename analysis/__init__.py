"""Everything after training: frames, selection rules, statistics, tables, figures and the report."""

from analysis.frames import load_epochs, load_predictions, load_trials, narrow
from analysis.selection import alpha_settings, lambda_settings, select_alpha, select_lambda_select, select_teacher
from analysis.verdicts import load_audits

__all__ = [
    "alpha_settings",
    "lambda_settings",
    "load_audits",
    "load_epochs",
    "load_predictions",
    "load_trials",
    "narrow",
    "select_alpha",
    "select_lambda_select",
    "select_teacher",
]
