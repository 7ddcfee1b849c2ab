"""A stand-in for the few parts of torchvision that the example scripts of diffusers use.

It is importable as `torchvision` in the process of such a script alone, which puts this folder on its path.
"""

from . import transforms as transforms

__version__ = "0.0"
