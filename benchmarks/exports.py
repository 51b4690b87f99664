"""The sizes of a classifier in each format, how its answers differ, and how long one photo takes in a new process.

    python benchmarks/exports.py                            # 400 drawn pets; a few minutes
    python benchmarks/exports.py --photos FOLDER            # with a sub-folder of photos for each of two classes

The head is fitted to one half of the photos, the exports are compared with the original on the other.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from measuring import RESULTS, conditions
from transfer_cvd.datasets.drawn_pets.drawing import draw_pet
from transfer_cvd.networks.classifier import TransferModel, default_head
from transfer_cvd.networks.efficientnet_lite0 import efficientnet_lite0
from transfer_cvd.inference.exports import FORMATS, export_classifier
from transfer_cvd.photos.folders import list_folder
from transfer_cvd.inference.predictor import formatted_batches
from transfer_cvd.inference.classifier import Classifier

SIZE = 160
ONE_PHOTO = '''
import sys
from transfer_cvd.inference.exports import open_classifier
open_classifier(sys.argv[1]).predict(sys.argv[2])
'''


def draw_photos(folder: Path, n: int) -> Path:
    """A folder `cat` and a folder `dog` with `n` drawn pets together."""
    for i in range(n):
        path = folder / ('cat', 'dog')[i % 2] / f'{i:04}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).save(path, quality=92)
    return folder


def halves(source: Path, folder: Path) -> tuple[list[str], np.ndarray, Path]:
    """Paths and labels of every other photo, and a folder of links to the rest."""
    listing = list_folder(source)
    for photo in listing.photos[1::2]:
        link = folder / listing.names[photo.label] / Path(photo.path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.abspath(photo.path))
    every_second = listing.photos[::2]
    return [photo.path for photo in every_second], np.array([photo.label for photo in every_second]), folder


def fit(paths: list[str], labels: np.ndarray, class_names: list[str]) -> Classifier:
    """A classifier whose head is a logistic regression on the features of `paths`."""
    network = TransferModel(efficientnet_lite0(SIZE), keras.layers.GlobalAveragePooling2D(), default_head(2))
    images = np.stack([image for batch in formatted_batches(paths, SIZE) for image in batch])
    features = keras.Model(network.backbone.input, network.pooling(network.backbone.output)).predict(images, verbose=0)
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(features, labels)
    network.head.set_weights([fitted.coef_.T, fitted.intercept_])
    return Classifier.from_network(network, class_names)


def one_photo(path: Path, photo: str) -> float:
    """Seconds of a new process that opens a classifier and predicts one photo, the smallest of three."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, '-c', ONE_PHOTO, path, photo], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--photos', type=Path, help='by default drawn pets')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = arguments.photos or draw_photos(work / 'pets', 400)
        paths, labels, rest = halves(source, work / 'rest')
        classifier = fit(paths, labels, list_folder(source).names)
        classifier.save(work / 'pets.keras')
        kind = 'photos' if arguments.photos else 'drawn pets'
        size = (work / 'pets.keras').stat().st_size / 1e6
        lines = [f'# Exports\n\n{conditions()}.\n\nefficientnet_lite0 at {SIZE} pixels, two classes, '
                 f'head fitted to {len(paths)} {kind}, compared on others. '
                 f'The last column is one photo in a new process, from its start to its end.\n',
                 '| format | MB | largest difference of a probability | photos | accuracy | original | one photo (s) |',
                 '| --- ' * 7 + '|',
                 f'| keras | {size:.1f} | | | | | {one_photo(work / "pets.keras", paths[0]):.1f} |']
        for format in (format for format in FORMATS if format != 'web'):  # which is the ONNX file again
            made = export_classifier(classifier, format, work / format, rest)
            lines.append(f'| {format} | {made.bytes / 1e6:.1f} | {made.difference:.1e} | {made.n} '
                         f'| {made.accuracy:.3f} | {made.original_accuracy:.3f} '
                         f'| {one_photo(made.path, paths[0]):.1f} |')
            print(lines[-1], flush=True)
    (RESULTS / 'exports.md').write_text('\n'.join(lines) + '\n')
