"""What the tests share: everything runs offline, on a small folder of drawn pets."""
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
os.environ.setdefault('XDG_CACHE_HOME', tempfile.mkdtemp())  # what is remembered of photos
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # with more of them, many small regressions take longer

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / 'benchmarks'))  # some tests run what a benchmark measures


DURATIONS = Path(__file__).with_name('durations.json')  # seconds of each group, from `make durations`


def group_of(item: pytest.Item) -> str:
    """What runs in one process: a notebook alone, tests of one file together, and with them those of one long run."""
    if item.path.name == 'test_notebooks_run.py':
        return item.nodeid.partition('@')[0]
    return 'runs' if {'finished_run', 'own_run'} & set(item.fixturenames) else item.path.name


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand out groups, the longest first, so that the last ones to end are short."""
    known = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: (-known.get(group_of(item), 60), group_of(item)))


def pytest_terminal_summary(terminalreporter) -> None:
    """With TRANSFER_CVD_DURATIONS=1 note how long each group took, for the order of the next time."""
    if os.environ.get('TRANSFER_CVD_DURATIONS') != '1':
        return
    seconds = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, group in getattr(report, 'user_properties', ()):
                if name == 'group':
                    seconds[group] = seconds.get(group, 0) + report.duration
    DURATIONS.write_text(json.dumps({group: round(took) for group, took in sorted(seconds.items())}, indent=1) + '\n')


@pytest.fixture(autouse=True)
def _noted_group(request, record_property):
    """Let each report say to which group it belongs."""
    record_property('group', group_of(request.node))


@pytest.fixture(scope='session')
def pets(tmp_path_factory):
    """Sixty drawn pets, a folder `cat` and a folder `dog`; tests that change something copy it first."""
    from transfer_cvd.datasets.drawn_pets.drawing import draw_pet

    folder = tmp_path_factory.mktemp('photos') / 'pets'
    for i in range(60):
        path = folder / ('cat', 'dog')[i % 2] / f'{i:03}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).save(path)
    return folder


@pytest.fixture
def nobody():
    """Go on as a user with few permissions where the tests run as root, who may write anywhere."""
    user = os.getuid()
    if user == 0:
        os.setresuid(65534, 65534, 0)
    yield
    if user == 0:
        os.seteuid(0)
        os.setresuid(0, 0, 0)


@pytest.fixture
def shell(monkeypatch, capfd):
    """Run the command line in this process; give exit code, lines of output, lines of errors."""
    from transfer_cvd.cli import main

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['transfer_cvd', *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capfd.readouterr()
        return stopped.value.code, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture(scope='session')
def finished_run(pets, tmp_path_factory):
    """The folder of a short run on `pets`: both stages."""
    from transfer_cvd.config import TrainConfig
    from transfer_cvd.runs import run

    folder = tmp_path_factory.mktemp('run')
    run(TrainConfig(str(pets), epochs=5, fine_tune_epochs=2, schedule='tutorial'), folder)
    return folder


@pytest.fixture(scope='session')
def small_classifier():
    """A classifier of cats and dogs with few layers and random weights, which answers at once."""
    import keras

    from transfer_cvd.inference.classifier import Classifier

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, strides=2), keras.layers.BatchNormalization(), keras.layers.ReLU(6)]
    backbone = keras.Sequential([keras.Input((64, 64, 3)), *layers, keras.layers.DepthwiseConv2D(3)])
    network = keras.Sequential([backbone, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    return Classifier.from_network(network, ['cat', 'dog'], facts={'seed': 3})


@pytest.fixture(scope='session')
def small_model(small_classifier, tmp_path_factory):
    """Its file."""
    path = tmp_path_factory.mktemp('model') / 'model.keras'
    small_classifier.save(path)
    return path


@pytest.fixture(scope='session')
def untidy(tmp_path_factory):
    """42 cats, three of them one shot in other qualities, 12 dogs, a text that is called a photo, half a photo."""
    from transfer_cvd.datasets.drawn_pets.drawing import draw_pet

    folder = tmp_path_factory.mktemp('untidy') / 'pets'
    for name, number in (('cat', 40), ('dog', 12)):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(draw_pet(name, np.random.default_rng(i))).save(folder / name / f'{i:02}.jpg', quality=95)
    for quality in (60, 80):
        Image.open(folder / 'cat/00.jpg').save(folder / f'cat/00-{quality}.jpg', quality=quality)
    (folder / 'dog/text.jpg').write_text('this is no picture')
    whole = (folder / 'cat/01.jpg').read_bytes()
    (folder / 'cat/cut.jpg').write_bytes(whole[:len(whole) // 2])
    return folder


@pytest.fixture(scope='session')
def own_run(untidy, tmp_path_factory):
    """The folder of a run on `untidy` by the command line, the head alone; what it printed is in said.txt beside it."""
    from transfer_cvd.cli import main

    folder = tmp_path_factory.mktemp('own') / 'run'
    options = ['--offline', '--data', str(untidy), '--fine-tune-epochs', '0', '--out', str(folder)]
    with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said,
          pytest.raises(SystemExit) as stopped):
        patch.setattr('sys.argv', ['transfer_cvd', 'train', *options])
        main()
    assert stopped.value.code == 0
    (folder.parent / 'said.txt').write_text(said.getvalue())
    return folder
