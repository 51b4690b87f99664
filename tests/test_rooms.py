"""Imports go down, chapters hold the lesson alone, lines are short, and every notebook says what it is about."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tools'))

import rooms

NOTEBOOKS = sorted(path for path in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
CHAPTERS = {
    'data': {'load_data', 'format_example', 'show_batch'},
    'base_model': {'base_model'},
    'feature_extraction': {'freeze', 'add_head', 'train_head'},
    'fine_tuning': {'unfreeze_from', 'fine_tune'},
    'summary': {'plot_history', 'report'},
}
MAX_LINES = 120  # characters


def cells(path):
    """The cells of a notebook: kind and source."""
    notebook = json.loads(path.read_text(encoding='utf-8'))
    return [(cell['cell_type'], ''.join(cell['source'])) for cell in notebook['cells']]


def shown(each):
    return f'transfer_cvd/{each.importer.replace(".", "/")}.py:{each.line} imports {each.imported}'


def test_every_module_is_in_a_room():
    assert {rooms.room_of(module) for module in rooms.module_files()} - {*rooms.NOT_ROOMS} == {*rooms.ORDER}


def test_no_import_goes_up():
    level = {room: number for number, room in enumerate(rooms.ORDER)}
    upward = [shown(each) for each in rooms.all_imports() if each.imported not in rooms.NOT_ROOMS
              and level[rooms.room_of(each.imported)] > level[rooms.room_of(each.importer)]]
    assert upward == []


def test_no_room_imports_a_chapter():
    wrong = [shown(each) for each in rooms.all_imports() if rooms.room_of(each.imported) == 'chapters'
             and rooms.room_of(each.importer) not in rooms.ABOVE_CHAPTERS]
    assert wrong == []


def test_private_names_stay_in_their_module():
    assert [shown(each) for each in rooms.all_imports() if any(name.startswith('_') for name in each.names)] == []


def test_the_map_is_that_of_the_imports():
    done = subprocess.run([sys.executable, ROOT / 'tools/rooms.py', 'check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def chapter_path(module):
    number = list(CHAPTERS).index(module)
    return ROOT / f'nbs/0{number}_{module}.ipynb'


def exported(path):
    """The exported cells of a notebook without their directives."""
    return [re.sub(r'^#\|.*\n', '', source, flags=re.M) for kind, source in cells(path)
            if kind == 'code' and source.startswith('#| export')]


def test_chapters_export_little():
    """Lines that are not blank, docstrings and comments counted."""
    lines = {module: sum(bool(line.strip()) for line in '\n'.join(exported(chapter_path(module))).splitlines())
             for module in CHAPTERS}
    assert sum(lines.values()) <= 250, lines


def body_lines(function):
    """Lines of a function's body without its docstring."""
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    return function.end_lineno - first.lineno + 1


@pytest.mark.parametrize('module', CHAPTERS)
def test_functions_of_a_chapter_can_be_taken_in_at_a_glance(module):
    functions = [node for source in exported(chapter_path(module)) for node in ast.walk(ast.parse(source))
                 if isinstance(node, ast.FunctionDef)]
    assert functions
    # A call that names each of its arguments on a line of its own is one statement, however many there are.
    assert {function.name: body_lines(function) for function in functions
            if body_lines(function) > 12 and len(function.body) > 4} == {}


@pytest.mark.parametrize('module', CHAPTERS)
def test_public_names_of_a_chapter(module):
    tree = ast.parse((ROOT / f'transfer_cvd/{module}.py').read_text(encoding='utf-8'))
    names = next(ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign) and node.targets[0].id == '__all__')
    assert CHAPTERS[module] <= set(names)


def without_exported_names(path):
    """The lines of a module without the list of names that nbdev writes, which has its own line breaks."""
    return re.sub(r'^__all__ = \[.*?\]$', '', path.read_text(encoding='utf-8'), flags=re.M | re.S).splitlines()


def test_lines_are_short():
    files = [path for folder in ('tests', 'benchmarks', 'tools') for path in (ROOT / folder).glob('*.py')]
    long = [f'{path.relative_to(ROOT)}:{number}' for path in [*files, ROOT / 'setup.py']
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1) if len(line) > MAX_LINES]
    long += [f'{path.relative_to(ROOT)}: {line[:60]}' for path in NOTEBOOKS for kind, source in cells(path)
             if kind == 'code' for line in source.splitlines() if len(line) > MAX_LINES]
    modules = [path for path in rooms.module_files().values() if path.name != '_modidx.py']
    long += [f'{path.relative_to(ROOT)}: {line[:60]}' for path in modules for line in without_exported_names(path)
             if len(line) > MAX_LINES]
    assert long == []


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / 'nbs').as_posix())
def test_a_notebook_says_what_it_is_about(path):
    kind, source = cells(path)[0]
    assert kind == 'markdown' and re.match(r'# .+\n\n> .+', source)


@pytest.mark.parametrize('folder', ['using', 'inside'])
def test_a_folder_has_a_table_of_contents(folder):
    page = ROOT / f'nbs/{folder}/index.ipynb'
    linked = {match for _, source in cells(page) for match in re.findall(r'\]\(([^)]+\.ipynb)\)', source)}
    there = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob('*.ipynb')
             if path != page and '.ipynb_checkpoints' not in path.parts}
    assert linked >= there


@pytest.mark.parametrize('code', ['import transfer_cvd', 'from transfer_cvd.all import InputError, TrainConfig'])
def test_importing_is_instant(code):
    check = f'import sys\n{code}\nassert not {{"tensorflow", "keras", "numpy"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', check], check=True, cwd=ROOT)
