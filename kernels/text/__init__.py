"""Text kernels: Numba loops over Arrow's own UTF-8 buffers, no Python object per document or word.
``buffers`` gives the two arrays, ``words`` finds words and lines, ``statistics`` counts what the
quality rules need (``reference`` is its contract), ``pii`` finds personal data, ``html_tokens`` reads
HTML, ``html_model`` finds its main content; ``hashing``, ``folding``, ``minhash``, ``lsh`` and
``band_records`` find duplicates. ``simd`` is what kernels over 64-byte blocks share,
``cache`` where compiled ones are kept.
"""

import numba

# compiled kernels are kept by what our sources say, wherever they lie: kernels/text/cache.py
_LOCATORS = ("UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator", "IPythonCacheLocator")
numba.config.CACHE_LOCATOR_CLASSES = ",".join(("kernels.text.cache.ByContent", *_LOCATORS))
