"""How predictions are combined. A guidance says which branches to run and how to join them.

`CFG` covers classifier-free guidance and the methods that replace its formula (`PUSHES`); `Renormed` surrounds
another guidance.
"""

from diffgen.guidance.cfg import CFG, rescaled
from diffgen.guidance.perturbed import Perturbed
from diffgen.guidance.pushes import PUSHES
from diffgen.guidance.renormed import Renormed

__all__ = ["CFG", "PUSHES", "Perturbed", "Renormed", "rescaled"]
