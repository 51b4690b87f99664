"""What the tests share: everything runs offline, on a small folder of drawn pets."""
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
os.environ.setdefault('XDG_CACHE_HOME', tempfile.mkdtemp())  # what is remembered of photos
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # with more of them, many small regressions take longer

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / 'benchmarks'))  # some tests run what a benchmark measures

DURATIONS = Path(__file__).with_name('durations.json')  # seconds of each group, from `make durations`


def group_of(nodeid: str) -> str:
    """Return what a test runs in one process with: those of its file, or nothing where it is a notebook."""
    path = nodeid.partition('::')[0]
    return nodeid if path.endswith('test_notebooks_run.py') else Path(path).name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out groups. The marks of `--dist loadgroup` would do, but pytest 9.2 no longer reads what they write."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


def known_durations() -> dict[str, int]:
    """Return the seconds of each group when they were last noted; a group that is new has none."""
    return json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups that take longest first, so that the last ones to end are short."""
    known = known_durations()
    items.sort(key=lambda item: (-known.get(group_of(item.nodeid), 60), group_of(item.nodeid)))


def pytest_terminal_summary(terminalreporter) -> None:
    """With TRANSFER_CVD_DURATIONS=1 note how long each group took, for the order of the next time."""
    if os.environ.get('TRANSFER_CVD_DURATIONS') != '1':
        return
    seconds = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, 'duration'):
                group = group_of(report.nodeid)
                seconds[group] = seconds.get(group, 0) + report.duration
    noted = known_durations() | {group: round(took) for group, took in seconds.items()}  # some may not have run
    DURATIONS.write_text(json.dumps(dict(sorted(noted.items())), indent=1) + '\n')


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder `name` that `make` filled, once for all processes of the tests: the others wait for the first."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # of which each process has one folder
    with FileLock(folder / f'{name}.lock'):
        done = folder / f'{name}.done'
        if not done.exists():
            shutil.rmtree(folder / name, ignore_errors=True)  # of a process whose `make` failed
            (folder / name).mkdir()
            make(folder / name)
            done.touch()
    return folder / name


@pytest.fixture(scope='session')
def pets(tmp_path_factory):
    """Sixty drawn pets, a folder `cat` and a folder `dog`; tests that change something copy it first."""
    from transfer_cvd.datasets.drawn_pets.drawing import draw_pet

    def draw(folder):
        for i in range(60):
            path = folder / ('cat', 'dog')[i % 2] / f'{i:03}.jpg'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).save(path)

    return made_once(tmp_path_factory, 'pets', draw)


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

    config = TrainConfig(str(pets), epochs=5, fine_tune_epochs=2, schedule='tutorial')
    return made_once(tmp_path_factory, 'finished_run', lambda folder: run(config, folder))


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

    def draw(folder):
        for name, number in (('cat', 40), ('dog', 12)):
            (folder / name).mkdir()
            for i in range(number):
                photo = Image.fromarray(draw_pet(name, np.random.default_rng(i)))
                photo.save(folder / name / f'{i:02}.jpg', quality=95)
        for quality in (60, 80):
            Image.open(folder / 'cat/00.jpg').save(folder / f'cat/00-{quality}.jpg', quality=quality)
        (folder / 'dog/text.jpg').write_text('this is no picture')
        whole = (folder / 'cat/01.jpg').read_bytes()
        (folder / 'cat/cut.jpg').write_bytes(whole[:len(whole) // 2])

    return made_once(tmp_path_factory, 'untidy', draw)


@pytest.fixture(scope='session')
def own_run(untidy, tmp_path_factory):
    """The folder of a run on `untidy` by the command line, the head alone; what it printed is in said.txt beside it."""
    from transfer_cvd.cli import main

    def train(folder):
        options = ['--offline', '--data', str(untidy), '--fine-tune-epochs', '0', '--out', str(folder / 'run')]
        with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said,
              pytest.raises(SystemExit) as stopped):
            patch.setattr('sys.argv', ['transfer_cvd', 'train', *options])
            main()
        assert stopped.value.code == 0
        (folder / 'said.txt').write_text(said.getvalue())

    return made_once(tmp_path_factory, 'own_run', train) / 'run'


@pytest.fixture(scope='session')
def no_runtime(tmp_path_factory):
    """A folder with texts in place of the files with which a page runs its classifier in a browser."""
    from transfer_cvd.inference.web.page import RUNTIME_FILES

    folder = tmp_path_factory.mktemp('runtime')
    for name in RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder
