"""Train the extractor: ``python -m benchmarks.extraction.train DATA [--folds]``.

DATA is WCXB's development split as Parquet (arXiv 2605.21097, CC-BY-4.0): url, page_type, html,
main_content, shares_site_with_test. Pages marked ``shares_site_with_test`` stay out: the published
split leaks. Writes ``pipelines/extract/columnar.safetensors``, byte for byte the same from the same
data, LightGBM and NumPy; ``--folds`` cross-validates by site instead, on all pages, and writes nothing.
Needs LightGBM, which nothing else does: ``pip install lightgbm==4.7.0`` into an environment of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow.parquet as pq

from benchmarks.corpora import progress
from benchmarks.extraction.fit import (
    TREES,
    Page,
    features,
    flatten,
    fold_of,
    read_page,
    word_tables,
)
from benchmarks.extraction.score import word_scores
from kernels.text.html_features import WORDS
from kernels.text.html_model import NOTHING, ContentModel
from kernels.text.html_tokens import Workspace
from kernels.text.html_trees import add_trees, cut, levels
from pipelines.extract.html import MODEL

NUM_TREES, FOLDS = 250, 5


def read_pages(path: str, all_pages: bool) -> list[Page]:
    columns = ["url", "page_type", "html", "main_content", "shares_site_with_test"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    workspace = Workspace()
    return [
        read_page(workspace, row["url"], row["page_type"], row["html"], row["main_content"])
        for row in rows
        if all_pages or not row["shares_site_with_test"]
    ]


def fit_trees(matrices: list[np.ndarray], pages: list[Page]) -> dict[str, np.ndarray]:
    """The arrays of the trees (kernels.text.html_trees) that tell main content from the features."""
    weights = np.concatenate([page.weights for page in pages])
    weights = weights / weights.mean() + 0.02
    labels = np.concatenate([page.is_main for page in pages])
    data = lightgbm.Dataset(np.concatenate(matrices), labels, weight=weights)
    return flatten(lightgbm.train({**TREES, "num_threads": 1}, data, NUM_TREES).dump_model())


def train(pages: list[Page]) -> ContentModel:
    """Tables from all pages, trees from features for which each page's tables knew nothing of its fold."""
    folds = [fold_of(page.site, FOLDS) for page in pages]
    tables = [
        word_tables([p for p, f in zip(pages, folds, strict=True) if f != fold]) for fold in range(FOLDS)
    ]
    progress("word tables of the folds")
    matrices = [features(page, tables[fold])[0] for page, fold in zip(pages, folds, strict=True)]
    trees = fit_trees(matrices, pages)
    progress("trees")
    class_words, text_words = word_tables(pages)
    facts = {
        "pages": len(pages),
        "sites": len({page.site for page in pages}),
        "lightgbm": lightgbm.__version__,
    }
    return ContentModel(class_words, text_words, **trees, facts=facts)


def cross_validate(pages: list[Page]) -> list[tuple[float, float, float]]:
    """(F1, precision, recall) of each page by a model that saw nothing of its fold."""
    folds = np.array([fold_of(page.site, FOLDS) for page in pages])
    without = {
        (a, b): word_tables([p for p, f in zip(pages, folds, strict=True) if f not in (a, b)])
        for a in range(FOLDS)
        for b in range(a, FOLDS)
    }
    found: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(pages)
    for fold in range(FOLDS):
        progress(f"fold {fold}")
        pairs = [(min(fold, int(f)), max(fold, int(f))) for f in folds]
        others = [i for i in range(len(pages)) if folds[i] != fold]
        matrices = [features(pages[i], without[pairs[i]])[0] for i in others]
        trees = fit_trees(matrices, [pages[i] for i in others])
        for i in np.flatnonzero(folds == fold):
            page = pages[i]
            kept = _keep(page, without[fold, fold], trees)
            words = sum((page.block_words[b] for b in kept), type(page.truth)())
            found[i] = word_scores(words, page.truth)
    return found


def _keep(page: Page, tables: tuple[np.ndarray, np.ndarray], trees: dict[str, np.ndarray]) -> np.ndarray:
    """The blocks that the model would keep."""
    matrix, statistics = features(page, tables)
    n = len(matrix)
    scores, block_levels = np.empty(n, np.int64), np.empty(n, np.int64)
    columns = np.ascontiguousarray(matrix.T)
    arrays = (trees["features"], trees["thresholds"], trees["masks"], trees["leaves"])
    add_trees(columns, n, *arrays, np.empty(n, np.uint32), scores)
    levels(scores, n, block_levels)
    lowest, expected = cut(block_levels, np.maximum(statistics[:, WORDS], 1))
    return np.flatnonzero(block_levels >= lowest) if expected >= NOTHING else np.empty(0, np.int64)


def show(pages: list[Page], found: list[tuple[float, float, float]]) -> None:
    scores = np.array(found)
    kinds = np.array([page.kind for page in pages])
    for kind in ["all", *sorted(set(kinds))]:
        some = scores[(kinds == kind) | (kind == "all")]
        f1, precision, recall = some.mean(0)
        print(f"{kind:16}{len(some):6} pages  F1 {f1:.4f}  precision {precision:.3f}  recall {recall:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="WCXB's development split, Parquet")
    parser.add_argument("--folds", action="store_true", help="cross-validate, on all pages; write nothing")
    parser.add_argument("--out", type=Path, default=MODEL, help="where to write the model")
    chosen = parser.parse_args()
    pages = read_pages(chosen.data, chosen.folds)
    progress(f"{len(pages)} pages, {sum(len(page.blocks) for page in pages)} blocks")
    if chosen.folds:
        show(pages, cross_validate(pages))
    else:
        model = train(pages)
        model.save(chosen.out)
        print(f"{chosen.out.name}: {chosen.out.stat().st_size} bytes, {model.facts}")


if __name__ == "__main__":
    main()
