"""What the tests share: everything runs offline, on a small folder of drawn pets."""
import os

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest
from PIL import Image


def draw_folder(folder, n=60, first_seed=0):
    """A folder `cat` and a folder `dog` with `n` drawn pictures together."""
    from transfer_cvd.drawn_pets import draw_pet

    for i in range(n):
        path = folder / ('cat', 'dog')[i % 2] / f'{i:03}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(first_seed + i))).save(path)
    return folder


@pytest.fixture(scope='session')
def pets(tmp_path_factory):
    """Sixty drawn pets in a folder; tests that change something copy it first."""
    return draw_folder(tmp_path_factory.mktemp('photos') / 'pets')


@pytest.fixture
def shell(monkeypatch, capfd):
    """Run the command line in this process; give exit code, lines of output, lines of errors."""
    from transfer_cvd.command_line import main

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
    from transfer_cvd.runs import run

    folder = tmp_path_factory.mktemp('run')
    run(folder, pets, epochs=5, fine_tune_epochs=2)
    return folder
