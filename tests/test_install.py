"""A wheel built from the tree installs and works where there is nothing but its requirements: no nbdev, no Jupyter."""
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PARTS = ['transfer_cvd', 'settings.ini', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE']
NOT_THERE = ['nbdev', 'execnb', 'IPython', 'ipykernel', 'jupyterlab', 'nbconvert', 'pytest', 'skimage', 'torch']


def settings():
    """The facts in settings.ini."""
    parser = ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def with_all_it_needs(requirements):
    """The installed distributions that the requirements need, and those that these need, and so on."""
    found, waiting = {}, [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        known, extras = found.get(name, (None, set()))
        if known and wanted.extras <= extras:
            continue
        found[name] = known or metadata.distribution(name), extras | wanted.extras
        for needed in map(Requirement, found[name][0].requires or []):
            if needed.marker is None or any(needed.marker.evaluate({'extra': extra}) for extra in {'', *wanted.extras}):
                waiting.append(needed)
    return [distribution for distribution, _ in found.values()]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel built from a source distribution, which is built from a copy of the tree."""
    tree = tmp_path_factory.mktemp('tree')
    for name in PARTS:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tree / name)
    options = ['--no-isolation', '--skip-dependency-check', '--outdir', tree / 'dist']
    command = [sys.executable, '-m', 'build', *options, tree]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next((tree / 'dist').glob('*.whl'))


@pytest.fixture(scope='module')
def empty_environment(wheel, tmp_path_factory):
    """A new environment with the wheel and its requirements, which are linked from this one, not downloaded."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, symlinks=True, with_pip=False)
    packages = Path(sysconfig.get_path('purelib', 'venv', vars={'base': str(folder)}))
    for distribution in with_all_it_needs(settings()['requirements'].split()):
        for top in {file.parts[0] for file in distribution.files} - {'..', '__pycache__'}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    pip = [sys.executable, '-m', 'pip', '--python', folder / 'bin/python']
    command = [*pip, 'install', '--quiet', '--no-index', wheel]
    subprocess.run(command, check=True)
    return folder / 'bin'


def answer(*command):
    """What a command prints; run in the root of the file system, so that it cannot find the tree."""
    return subprocess.run(command, cwd='/', check=True, capture_output=True, text=True).stdout


def facts(wheel):
    """The metadata of the wheel."""
    with ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith('.dist-info/METADATA'))
        return HeaderParser().parsestr(file.read(name).decode())


@pytest.mark.parametrize('extra', ['', 'offline', 'heif', 'fast', 'tensorboard', 'export', 'mobile', 'dev'])
def test_requirements_are_those_of_the_settings(wheel, extra):
    key = f'{extra}_requirements' if extra else 'requirements'
    written = {(canonicalize_name(r.name), r.specifier) for r in map(Requirement, settings()[key].split())}
    stated = [Requirement(line) for line in facts(wheel).get_all('Requires-Dist')]
    of_extra = [r for r in stated if (r.marker.evaluate({'extra': extra}) if r.marker else not extra)]
    assert {(canonicalize_name(r.name), r.specifier) for r in of_extra} == written


def test_metadata(wheel):
    assert facts(wheel)['Version'] == settings()['version'] == metadata.version('transfer_cvd')
    assert facts(wheel)['Requires-Python'] == f">={settings()['min_python']}"
    assert facts(wheel)['Description-Content-Type'] == 'text/markdown'


def test_the_wheel_holds_the_package_and_its_licence_only(wheel):
    with ZipFile(wheel) as file:
        names = [name for name in file.namelist() if '.dist-info/' not in name]
        assert any(name.endswith('/LICENSE') for name in file.namelist())
    assert sorted(names) == sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'transfer_cvd').rglob('*')
                                   if path.suffix in ('.py', '.j2', '.css', '.js', '.txt', '.typed'))
    assert 'transfer_cvd/evaluation/report/page.html.j2' in names


def test_the_environment_is_empty(empty_environment):
    code = f'import importlib.util as u; print([name for name in {NOT_THERE} if u.find_spec(name)])'
    assert answer(empty_environment / 'python', '-c', code) == '[]\n'


def test_help_works_there(empty_environment):
    assert 'train' in answer(empty_environment / 'transfer_cvd', '--help')
    assert '--offline' in answer(empty_environment / 'transfer_cvd', 'train', '--help')


def test_every_module_can_be_imported_there(empty_environment):
    files = (ROOT / 'transfer_cvd').rglob('[!_]*.py')
    modules = sorted('.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in files)
    code = (f'import importlib; modules = [importlib.import_module(name) for name in {modules}]; '
            'from transfer_cvd.data import load_data; print(load_data.__code__.co_filename)')
    assert str(empty_environment.parent) in answer(empty_environment / 'python', '-c', code)


def test_make_pins_all_it_installs():
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pinned = {canonicalize_name(line.split('==')[0]) for line in lines if '==' in line}
    requirements = [line for kind in ('', 'offline_', 'dev_') for line in settings()[f'{kind}requirements'].split()]
    installed = {canonicalize_name(distribution.name) for distribution in with_all_it_needs(requirements)}
    assert installed | {'pip', 'setuptools'} <= pinned, installed - pinned
