"""What the tests share: everything runs offline, on a small folder of drawn pets."""
import os
import tempfile

os.environ['TRANSFER_CVD_OFFLINE'] = '1'
os.environ.setdefault('XDG_CACHE_HOME', tempfile.mkdtemp())  # what is remembered of photos
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope='session')
def pets(tmp_path_factory):
    """Sixty drawn pets, a folder `cat` and a folder `dog`; tests that change something copy it first."""
    from transfer_cvd.drawn_pets import draw_pet

    folder = tmp_path_factory.mktemp('photos') / 'pets'
    for i in range(60):
        path = folder / ('cat', 'dog')[i % 2] / f'{i:03}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_pet(path.parent.name, np.random.default_rng(i))).save(path)
    return folder


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
