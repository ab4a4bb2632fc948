"""Checkpoints: recognise, load, convert, report. Never over the network unless asked."""

from diffgen.checkpoints.load import Model, find, load
from diffgen.checkpoints.report import Report, check, inspect

__all__ = ["Model", "Report", "check", "find", "inspect", "load"]
