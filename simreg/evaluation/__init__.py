"""Evaluation of a whole model: a suite of attacks in parts that survive a stop, one results file, plain verdicts.

`simreg.robustness` has the attacks; this package chooses budgets, runs them, and judges what the numbers allow.
"""

from simreg.evaluation.data import EvaluationData, load_evaluation_data
from simreg.evaluation.evaluate import evaluate_model
from simreg.evaluation.hardware import hardware
from simreg.evaluation.models import LoadedModel, resolve_model, surrogate_from
from simreg.evaluation.preflight import check_model
from simreg.evaluation.runner import run_suite
from simreg.evaluation.suites import SUITES, Measurement, Strengths, Subject, Suite, build_suite, strengths_of
from simreg.evaluation.summary import text_summary

__all__ = [
    "SUITES",
    "EvaluationData",
    "LoadedModel",
    "Measurement",
    "Strengths",
    "Subject",
    "Suite",
    "build_suite",
    "check_model",
    "evaluate_model",
    "hardware",
    "load_evaluation_data",
    "resolve_model",
    "run_suite",
    "strengths_of",
    "surrogate_from",
    "text_summary",
]
