"""Draw the map of rooms in CONTRIBUTING.md from the imports, and keep the sentences in the lists of notebooks current.

    python tools/rooms.py write    # write the map, and the sentences in the index.ipynb of nbs/using and nbs/inside
    python tools/rooms.py check    # exit with 1 and name the files in which something else stands

A room is a folder of transfer_cvd or a module beside the folders; the five chapters are one room. Only the text of the
modules is read, none of them is imported. Imports within functions count, those for type checkers alone do not.
In a list, order and titles are written by hand; the sentence is the first of the quote that the notebook begins with.
"""
import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'transfer_cvd'
CHAPTERS = ('data', 'base_model', 'feature_extraction', 'fine_tuning', 'summary')
ORDER = (  # from low to high: a room imports from rooms that stand before it, and from itself
    'errors', 'config', '_files', '_statistics', '_work_folder',
    'datasets', 'photos', 'networks', 'features', 'training', 'evaluation', 'inference',
    'chapters', 'runs', 'cli', 'all',
)
ABOVE_CHAPTERS = ('runs', 'cli', 'all')  # the only rooms that may import a chapter
NOT_ROOMS = ('', '_modidx', '__main__')  # the package itself, the index that nbdev writes, and `python -m`
BEGIN = '<!-- The map of rooms, written by tools/rooms.py: do not edit. -->'
END = '<!-- The end of the map of rooms. -->'
INDEXES = ('nbs/using/index.ipynb', 'nbs/inside/index.ipynb')  # the lists of notebooks
_ENTRY = re.compile(r'^(- \[.+?\]\(([^()\s]+\.ipynb)\)).*$', re.MULTILINE)


class Import(NamedTuple):
    """An import of one module of the package by another."""

    importer: str  # the module that imports, such as 'photos.scan'
    imported: str  # the module that is imported, such as '_files'
    names: tuple[str, ...]  # what is taken from it; empty where the module itself is imported
    line: int  # of the importer, from 1


def module_files(
    root: Path = ROOT,  # the project
) -> dict[str, Path]:
    """Return the file of each module by its name in the package, such as 'photos.scan'; '' is the package itself."""
    files = {}
    for path in sorted((root / PACKAGE).rglob('*.py')):
        parts = path.relative_to(root / PACKAGE).with_suffix('').parts
        files['.'.join(part for part in parts if part != '__init__')] = path
    return files


def room_of(
    module: str,  # such as 'photos.scan'
) -> str:
    """Return the room of a module: its folder, its own name if it has none, or 'chapters'."""
    top = module.split('.')[0]
    return 'chapters' if top in CHAPTERS else top


def for_type_checkers(
    node: ast.AST,
) -> bool:
    """Return whether `node` is a block `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ('TYPE_CHECKING', 'typing.TYPE_CHECKING')


def import_statements(
    node: ast.AST,
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements in `node`, at any depth, without those for type checkers alone."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = node.orelse if for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in children:
        yield from import_statements(child)


def absolute(
    statement: ast.ImportFrom,
    importer: str,  # the module it stands in, such as 'photos.scan'
    is_package: bool,  # whether that is an `__init__.py`
) -> str:
    """Return the full name of the module that a `from ... import` names, such as 'transfer_cvd.errors'."""
    if not statement.level:
        return statement.module
    above = [PACKAGE, *(importer.split('.') if importer else [])]
    kept = len(above) - statement.level + is_package
    return '.'.join([*above[:kept], *([statement.module] if statement.module else [])])


def imports_of(
    importer: str,  # a module, such as 'photos.scan'
    files: dict[str, Path],  # of all modules, from `module_files`
) -> list[Import]:
    """Return what a module imports from the package, in the order of its lines."""
    path = files[importer]
    found = []
    for statement in import_statements(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(statement, ast.Import):
            imported = [(alias.name, ()) for alias in statement.names]
        else:
            source = absolute(statement, importer, path.name == '__init__.py')
            names = [alias.name for alias in statement.names]
            modules = [name for name in names if within(f'{source}.{name}') in files]
            taken = tuple(name for name in names if name not in modules)
            imported = [(f'{source}.{name}', ()) for name in modules] + ([(source, taken)] if taken else [])
        found += [Import(importer, within(name), taken, statement.lineno)
                  for name, taken in imported if within(name) is not None]
    return sorted(found, key=lambda each: each.line)


def within(
    full_name: str,  # of a module, such as 'transfer_cvd.errors' or 'numpy'
) -> str | None:
    """Return the name of a module within the package, or None for one of another package."""
    if full_name == PACKAGE:
        return ''
    return full_name.removeprefix(f'{PACKAGE}.') if full_name.startswith(f'{PACKAGE}.') else None


def all_imports(
    root: Path = ROOT,  # the project
) -> list[Import]:
    """Return all imports of one module of the package by another."""
    files = module_files(root)
    return [each for module in files if module not in NOT_ROOMS for each in imports_of(module, files)]


def first_sentence(
    path: Path,  # of a module
) -> str:
    """Return the first sentence of a module's docstring without its full stop, or '' if it has no docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return sentence_of(docstring.split('\n\n')[0])


def sentence_of(
    paragraph: str,
) -> str:
    """Return the first sentence of a paragraph, on one line and without its full stop."""
    paragraph = ' '.join(paragraph.split())
    return re.split(r'(?<=[.!?])\s+(?=[A-Z`])', paragraph)[0].removesuffix('.')


def notebook_of(
    path: Path,  # of a module
    root: Path = ROOT,  # the project
) -> str | None:
    """Return the notebook that a module is exported from, relative to the project, or None if it is hand-written."""
    named = re.search(r'^# AUTOGENERATED! DO NOT EDIT! File to edit: (\S+)\.$', path.read_text(encoding='utf-8'), re.M)
    return (path.parent / named[1]).resolve().relative_to(root).as_posix() if named else None


def draw_map(
    root: Path = ROOT,  # the project
) -> str:
    """Return the map as Markdown: the rooms from low to high, what each imports, and what its modules hold."""
    files = module_files(root)
    imports = all_imports(root)
    present = [room for room in ORDER if any(room_of(module) == room for module in files)]
    rooms = []
    for number, room in enumerate(present, 1):
        below = {room_of(each.imported) for each in imports if room_of(each.importer) == room} - {room, *NOT_ROOMS}
        used = ', '.join(each for each in present if each in below) or 'nothing of the package'
        rooms.append('\n'.join([f'{number}. **{room}** imports {used}.', *room_lines(room, files, root)]))
    return '\n'.join(rooms)


def room_lines(
    room: str,
    files: dict[str, Path],  # of all modules, from `module_files`
    root: Path,  # the project
) -> list[str]:
    """Return a line of the map for each module of a room that holds any code."""
    lines = []
    order = CHAPTERS if room == 'chapters' else [module for module in files if room_of(module) == room]
    for module in order:
        if files[module].name == '__init__.py' and not files[module].read_text(encoding='utf-8').strip():
            continue
        notebook = notebook_of(files[module], root)
        name = f'[`{module}`]({notebook})' if notebook else f'`{module}` (no notebook)'
        lines.append(f'    - {name}: {first_sentence(files[module])}.')
    return lines


def with_map(
    page: str,  # the text of CONTRIBUTING.md
    drawn: str,  # from `draw_map`
) -> str:
    """Return `page` with `drawn` between the two markers. Raises `ValueError` if it does not have both, once each."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f'CONTRIBUTING.md needs these two lines, once each and in this order: {BEGIN} {END}')
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f'{before}{BEGIN}\n\n{drawn}\n\n{END}{after}'


def quote_of(
    notebook: Path,
) -> str:
    """Return the text of the `>` quote in the first cell of a notebook. Raises `ValueError` if there is none."""
    source = ''.join(json.loads(notebook.read_text(encoding='utf-8'))['cells'][0]['source'])
    quoted = [line.removeprefix('>').strip() for line in source.splitlines() if line.startswith('>')]
    if not any(quoted):
        raise ValueError(f'{notebook} does not begin with a sentence in a > quote')
    return ' '.join(quoted)


def with_sentences(
    index: Path,  # a notebook with a list of notebooks
) -> str:
    """Return the text that the file of an index should have: behind each link the sentence of its notebook."""
    def entry(found: re.Match) -> str:
        return f'{found[1]}: {sentence_of(quote_of(index.parent / found[2]))}.'

    notebook = json.loads(index.read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = _ENTRY.sub(entry, ''.join(cell['source'])).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'


def wanted_files(
    root: Path = ROOT,  # the project
) -> dict[Path, str]:
    """Return the text that CONTRIBUTING.md and the indexes should have, by file."""
    page = root / 'CONTRIBUTING.md'
    wanted = {root / name: with_sentences(root / name) for name in INDEXES}
    return {page: with_map(page.read_text(encoding='utf-8'), draw_map(root))} | wanted


def main() -> int:
    """Write or check the map and the sentences; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=['write', 'check'])
    what = parser.parse_args().what
    stale = {path: text for path, text in wanted_files().items() if path.read_text(encoding='utf-8') != text}
    for path, text in stale.items():
        if what == 'write':
            path.write_text(text, encoding='utf-8')
        else:
            print(f'{path.relative_to(ROOT)} is not current: python tools/rooms.py write', file=sys.stderr)
    return int(what == 'check' and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
