"""Checkpoints: recognise, load, report. Never over the network."""

from diffgen.checkpoints.load import Model, find, load

__all__ = ["Model", "find", "load"]
