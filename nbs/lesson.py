"""The photos and the network that all chapters use. To use your own photos in every chapter, change DATA here."""
from transfer_cvd.config import defaults
from transfer_cvd.features.store import Store

DATA = None  # or a folder with a folder of photos for each class, such as r'C:\photos\pets', or a data set's name
BASE = None  # or another pretrained network, such as 'efficientnet_lite0'; nbs/using/networks.ipynb lists them all

DATA = DATA or defaults().data  # the tutorial's 'cats_vs_dogs'; offline 'drawn_pets'
BASE = BASE or defaults().base  # the tutorial's 'mobilenet_v2'; offline 'efficientnet_lite0'
store = Store(backend='tensorflow')  # where features are kept once they are computed; TensorFlow computes all of them
