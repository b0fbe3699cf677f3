"""Text kernels: Numba loops over Arrow's own UTF-8 buffers, no Python object per document or word.
``buffers`` gives the two arrays, ``words`` finds words and lines, ``statistics`` counts what the
quality rules need (``reference`` is its contract), ``pii`` finds personal data, ``markup`` tells what
an HTML page cannot hold; ``hashing``, ``minhash`` and ``lsh`` find duplicates.
"""

import hashlib
from pathlib import Path

import numba

# Numba's cache of a kernel looks at the kernel's own file only and would go on using it when a
# function that it calls changes in another file: so each state of our sources has its own cache.
_HERE = Path(__file__).parent
_SOURCES = b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))
_CACHE = Path(numba.config.CACHE_DIR or _HERE / "__pycache__" / "numba")
numba.config.CACHE_DIR = str(_CACHE / hashlib.blake2b(_SOURCES, digest_size=8).hexdigest())
