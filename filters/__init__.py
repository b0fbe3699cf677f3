"""Which documents stay: URL, language, quality, repetition, PII, classifier, dedup, decontamination.
Each stage is one small dataclass that maps an Arrow table to an Arrow table (pipelines/stage.py).
Statistics become flat columns with a plain prefix; ``decide`` alone turns columns into verdicts.
May import kernels; never pipelines, synth or sigma_model; no file access, no Ray.
A rule that needs a loop over bytes keeps the loop in kernels/text."""
