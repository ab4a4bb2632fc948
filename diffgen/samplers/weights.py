"""Weights of the multistep samplers: integrals of the polynomial through the evaluations at hand."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_PLACES, _SHARES = np.polynomial.legendre.leggauss(20)


@lru_cache(maxsize=4096)
def adams(nodes: tuple[float, ...], start: float, stop: float, rate: float = 0.0) -> tuple[float, ...]:
    """The integrals over u from `start` to `stop` of exp(rate (u - stop)) against the Lagrange polynomials of `nodes`.

    Rate 0 is Adams-Bashforth. With u = lambda and rate 1 + eta it is an exponential Adams step (DPM-Solver++
    2211.01095; with noise SA-Solver 2309.05019, eq. 14), with u = ln(level) and rate 1 it is DEIS (2204.13902).
    Places are taken from the start in units of the step, since nearby ones would otherwise cancel.
    """
    size = stop - start
    way = (_PLACES + 1) / 2
    kernel = _SHARES / 2 * size * np.exp(-rate * size * (1 - way))
    where = (np.asarray(nodes) - start) / size
    moments = [float((kernel * way**k).sum()) for k in range(len(nodes))]
    return tuple(float(weight) for weight in np.linalg.solve(np.vander(where, increasing=True).T, moments))


def exponential(nodes: tuple[float, ...], start: float, stop: float, eta: float = 0.0) -> tuple[float, ...]:
    """Weights of x0 known at the lambdas `nodes`; they sum to 1 - exp(-(1 + eta) (stop - start))."""
    return tuple((1 + eta) * weight for weight in adams(nodes, start, stop, 1 + eta))


def logarithmic(nodes: tuple[float, ...], start: float, stop: float) -> tuple[float, ...]:
    """Weights of slopes known at the levels `nodes`, by polynomials in ln(level); they sum to `stop` - `start`."""
    logs = tuple(math.log(node) for node in nodes)
    return tuple(stop * weight for weight in adams(logs, math.log(start), math.log(stop), 1.0))
