"""A LiteRT export in MediaPipe Tasks, as telephones run it: does it name the same class as `predict`?

    python benchmarks/mediapipe_client.py                       # drawn pets; some minutes
    python benchmarks/mediapipe_client.py --photos FOLDER       # with a sub-folder of photos for each of two classes

MediaPipe gets an environment of its own (`--environment` keeps it), where nothing of this package is, and the photos as
files. The head is fitted to every other photo, 100 of the rest are compared. Ends with 1 if fewer than 99 agree.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from exports import draw_photos, fit, halves
from measuring import RESULTS, conditions
from transfer_cvd.inference.exports import export_classifier
from transfer_cvd.photos.folders import list_folder

MEDIAPIPE = 'mediapipe==1.2.3'
FORMATS = ('litert', 'litert_float16', 'litert_int8')
CLIENT = '''
import json
import sys
import mediapipe
from mediapipe.tasks.python import BaseOptions, vision

path, *photos = sys.argv[1:]
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path))
with vision.ImageClassifier.create_from_options(options) as classifier:
    found = [classifier.classify(mediapipe.Image.create_from_file(photo)).classifications[0] for photo in photos]
print(json.dumps([{one.category_name: one.score for one in answer.categories} for answer in found]))
'''


def python_with_mediapipe(folder: Path) -> Path:
    """The Python of an environment in `folder` that has MediaPipe."""
    python = folder / 'bin' / 'python'
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', MEDIAPIPE], check=True)
    return python


def ask_mediapipe(python: Path, model: Path, photos: list[str]) -> list[dict[str, float]]:
    """The probabilities of each photo by name, from MediaPipe's image classifier."""
    done = subprocess.run([python, '-P', '-c', CLIENT, model, *photos], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def compare(python: Path, source: Path, work: Path) -> list[str]:
    """A row of the table for each format."""
    paths, labels, rest = halves(source, work / 'rest')
    names = list_folder(source).names
    classifier = fit(paths, labels, names)
    photos = [photo.path for photo in list_folder(rest).photos]
    photos = photos[::max(1, len(photos) // 100)][:100]
    expected = np.array([list(answer.probabilities.values()) for answer in classifier.predict(photos)])
    rows = []
    for format in FORMATS:
        export = export_classifier(classifier, format, work / format, rest)
        answers = ask_mediapipe(python, export.path, photos)
        found = np.array([[answer[name] for name in names] for answer in answers])
        same, off = (found.argmax(axis=1) == expected.argmax(axis=1)).sum(), np.abs(found - expected).max(axis=1)
        rows.append(f'| {format} | {len(photos)} | {same} | {np.median(off):.3f} | {off.max():.3f} |')
        print(rows[-1], flush=True)
    return rows


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--photos', type=Path, help='a folder with a sub-folder for each of two classes')
    parser.add_argument('--environment', type=Path, help="a folder to keep MediaPipe's environment in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = python_with_mediapipe(arguments.environment or Path(folder, 'environment'))
        source = arguments.photos or draw_photos(Path(folder, 'photos'), 400)
        rows = compare(python, source, Path(folder))
    title = 'drawn pets' if arguments.photos is None else 'photos'
    page = (f'# MediaPipe Tasks, {title}\n\n{conditions()}, {MEDIAPIPE.replace("==", " ")}.\n\n'
            'efficientnet_lite0 at 160 '
            'pixels, exported with metadata; `ImageClassifier` of MediaPipe against `predict` of the original.\n\n'
            '| format | photos | same class | difference of a probability, median | largest |\n'
            f'{"| --- " * 5}|\n' + '\n'.join(rows) + '\n')
    (RESULTS / f'mediapipe_client_{"photos" if arguments.photos else "drawn"}.md').write_text(page)
    sys.exit(any(int(row.split('|')[3]) < 0.99 * int(row.split('|')[2]) for row in rows))
