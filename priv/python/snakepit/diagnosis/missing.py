"""Advice on a module that is not there: whose it is, where to put it or what to install.

A name that nobody knows may be a module of the user's own that is not on the path, or a package. A user who installs
that name from PyPI might get a stranger's package, so the advice names both cases.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from ..support.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Imported by one name, installed by another.
_PACKAGES = {
    "Bio": "biopython",
    "Crypto": "pycryptodome",
    "Cryptodome": "pycryptodomex",
    "Levenshtein": "levenshtein",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "pillow",
    "absl": "absl-py",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "community": "python-louvain",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "discord": "discord.py",
    "distutils": "setuptools",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "github": "PyGithub",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "google.genai": "google-genai",
    "google.protobuf": "protobuf",
    "googleapiclient": "google-api-python-client",
    "grpc": "grpcio",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "kafka": "kafka-python",
    "ldap": "python-ldap",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "mysql": "mysql-connector-python",
    "nacl": "PyNaCl",
    "osgeo": "GDAL",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pytorch_lightning": "pytorch-lightning",
    "ruamel": "ruamel.yaml",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "socks": "PySocks",
    "telegram": "python-telegram-bot",
    "umap": "umap-learn",
    "usb": "pyusb",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
# Installed by the name by which they are imported.
_NAMES = """
aiohttp altair anthropic anyio arrow asyncpg attrs babel backoff bokeh boto3 botocore cachetools catboost cffi
chardet chromadb click cloudpickle cryptography cupy cvxpy cycler cython dash dask datasets diffusers dill django
docker duckdb einops faker fastapi fastparquet feedparser flask flax fsspec gensim geopandas gevent greenlet h5py
hdbscan httpx huggingface_hub hypothesis igraph imageio jax jaxlib jinja2 joblib jsonschema keras langchain
librosa lightgbm lightning llvmlite loguru lxml markdown matplotlib ml_dtypes mlflow mlxtend moviepy msgpack mypy
nbformat networkx nltk numba numexpr numpy onnx onnxruntime openai openpyxl optuna orjson packaging pandas
paramiko patsy peft pendulum plotly polars prophet psutil psycopg pyarrow pydantic pydub pygments pymongo pymupdf
pypdf pypdf2 pyproj pyspark pytest pytz pywt ray redis regex reportlab requests rich scipy scrapy seaborn selenium
setuptools shap shapely simplejson simpy six soundfile spacy sqlalchemy sqlglot starlette statsmodels streamlit
sympy tabulate tenacity tensorflow tiktoken timm tokenizers toml torch torchaudio torchvision tornado tqdm
transformers trimesh typer tzdata ujson unidecode urllib3 uvicorn uvloop websockets werkzeug wordcloud xarray
xgboost xlrd xlsxwriter xmltodict zstandard
"""
_SAME = frozenset(_NAMES.split())
_OPTIONAL = re.compile(r"[Mm]issing optional dependency '([A-Za-z0-9._-]+)'")
# How far a user's own directories are searched for a module.
_DEPTH, _ENTRIES = 3, 1000

# How a package comes into this environment, with {package} in it; nothing for an interpreter of the user's own.
_setup: str | None = None
_directories: list[str] = []


def configure(settings: dict[str, Any] | None) -> None:
    """Takes over what the BEAM knows of the pool's interpreter and its `python_path`."""
    global _setup, _directories
    _setup = (settings or {}).get("setup")
    _directories = list((settings or {}).get("paths") or [])


def advice_on(error: ImportError) -> str:
    """The end of the message of a failed import, or nothing."""
    optional = _OPTIONAL.search(str(error))
    if optional:
        return f"; {install(_package(optional[1]) or optional[1])}"
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name
    root = name.partition(".")[0]
    place = _place(root)
    known = _package(name)
    if place and name != root:
        if known and name in _PACKAGES:
            return f"; {install(known)}"
        return f"; {root} is {place}, which has no {name.removeprefix(root + '.')}"
    own = _own(root)
    if own:
        return own
    if root in sys.stdlib_module_names:
        return f"; it is of Python's own library, which this one ({sys.executable}) was made without"
    if known:
        return f"; {install(known)}"
    return (
        f"; if {root} is a module of yours, its directory is not in the pool's :python_path ({_listed()}); "
        f"if it is a package of PyPI, {install(root)}"
    )


def install(package: str) -> str:
    """How to get a package for this interpreter."""
    if _setup:
        return _setup.replace("{package}", package)
    from importlib.machinery import PathFinder

    python = sys.executable
    if sys.prefix == sys.base_prefix and _managed():
        return (
            f"install {package} for {python}, the pool's own interpreter, with the system's packages, or name the "
            "interpreter of a virtual environment with :python"
        )
    command = f"{python} -m pip install" if PathFinder.find_spec("pip") else f"uv pip install --python {python}"
    return f"install it for the pool's own interpreter: {command} {package}"


def _package(name: str) -> str | None:
    root = name.partition(".")[0]
    while name:
        if name in _PACKAGES:
            return _PACKAGES[name]
        name = name.rpartition(".")[0]
    return root if root.lower() in _SAME else None


def _managed() -> bool:
    import sysconfig

    return os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))


def _place(root: str) -> str:
    from importlib.machinery import PathFinder

    try:
        spec = PathFinder.find_spec(root)
    except Exception:
        return ""
    if spec is None:
        return ""
    return spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _own(root: str) -> str:
    """The advice on a module of the user's with this name, or nearly this; or nothing."""
    for directory, dotted, path in _modules():
        if dotted.rpartition(".")[2] == root and dotted != root:
            return f"; there is {path}: import it as {dotted}, or add {directory} to the pool's :python_path"
    names = sorted({dotted for _, dotted, _ in _modules() if "." not in dotted})
    near = nearest(root, names) if _package(root) is None else []
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _modules() -> Iterator[tuple[str, str, str]]:
    """The user's own: the directory each is in, how it is imported, and its file."""
    left = _ENTRIES
    todo = [(directory, "", 0) for directory in _directories]
    while todo:
        directory, prefix, depth = todo.pop(0)
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            left -= 1
            if left < 0:
                return
            name = entry.name.removesuffix(".py")
            if not name.isidentifier() or name.startswith("__"):
                continue
            if entry.name.endswith(".py"):
                yield directory, prefix + name, entry.path
            elif entry.is_dir():
                if os.path.exists(os.path.join(entry.path, "__init__.py")):
                    yield directory, prefix + name, entry.path
                if depth < _DEPTH:
                    todo.append((entry.path, f"{prefix}{name}.", depth + 1))


def _listed() -> str:
    return ", ".join(_directories) or "it names none"
