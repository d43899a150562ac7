"""Real-world degradation for super-resolution: tensors in, tensors out; needs torch and numpy only."""

from .config import DegradationConfig
from .degradation import Degradation
from .draws import Draws, image_generator
from .resize import imresize

__all__ = ['Degradation', 'DegradationConfig', 'Draws', 'image_generator', 'imresize']
