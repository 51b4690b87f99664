"""Build the package from settings.ini, where nbdev keeps its facts."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(here / 'settings.ini', encoding='utf-8')
facts = parser['DEFAULT']
names = ('offline', 'heif', 'fast', 'tensorboard', 'export', 'mobile', 'dev')
extras = {name: facts[f'{name}_requirements'].split() for name in names}
home = f"https://github.com/{facts['user']}/{facts['repo']}"

setup(
    name=facts['lib_name'],
    version=facts['version'],
    description=facts['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=facts['author'],
    license='Apache-2.0',
    keywords=facts['keywords'],
    project_urls={'Source': home, 'Questions and faults': f'{home}/issues'},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['transfer_cvd', 'transfer_cvd.*']),
    package_data={
        'transfer_cvd': ['py.typed'],
        'transfer_cvd.evaluation.report': ['*.j2', '*.css'],
        'transfer_cvd.inference.web': ['*.j2', '*.css', '*.js', '*.txt'],
    },
    python_requires=f">={facts['min_python']}",
    install_requires=facts['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': [facts['console_scripts']]},
    zip_safe=False,
)
