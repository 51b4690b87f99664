"""Transfer learning for image classification. The names to begin with are in `transfer_cvd.all`."""
import os
import sys

__version__ = "0.1.0"

if 'keras' not in sys.modules:
    os.environ['KERAS_BACKEND'] = 'tensorflow'  # Keras reads it when it is imported; another one cannot be used here
